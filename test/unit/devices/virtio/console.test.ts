import fc from 'fast-check';
import { expect, test } from 'vitest';
import type { CharHost } from '../../../../src/devices/device.ts';
import { Console } from '../../../../src/devices/virtio/console.ts';
import { FakeQueue } from '../../support/fake-queue.ts';

const NOTHING = new Uint8Array(0);
const F_SIZE = 1n;
const RING_BYTES = 64 * 1024;

class FakeHost implements CharHost {
  size = { cols: 80, rows: 25 };
  shown = '';
  #input = Buffer.alloc(0);
  #listener: Parameters<CharHost['listen']>[0] | undefined;

  type(text: string): void {
    this.#input = Buffer.concat([this.#input, Buffer.from(text, 'latin1')]);
    this.#listener?.onInput();
  }

  resize(cols: number, rows: number): void {
    this.size = { cols, rows };
    this.#listener?.onResize();
  }

  get waiting(): string {
    return this.#input.toString('latin1');
  }

  write(bytes: Uint8Array): void {
    this.shown += Buffer.from(bytes).toString('latin1');
  }

  peek(): Uint8Array {
    return this.#input.subarray(0, 10);
  }

  drop(count: number): void {
    this.#input = this.#input.subarray(count);
  }

  windowSize(): { cols: number; rows: number } {
    return this.size;
  }

  listen(listener: Parameters<CharHost['listen']>[0]): void {
    this.#listener = listener;
  }
}

class Setup {
  readonly host = new FakeHost();
  readonly console = new Console(this.host);
  readonly receive = new FakeQueue();
  readonly transmit = new FakeQueue();
  changes = 0;

  activate(features = F_SIZE): this {
    this.console.activate({
      features,
      queues: [this.receive, this.transmit],
      configChanged: () => {
        this.changes++;
      },
      needsReset: () => {},
    });
    return this;
  }
}

const bytesOf = (text: string): Uint8Array => Buffer.from(text, 'latin1');
const textOf = (bytes: Uint8Array): string => Buffer.from(bytes).toString('latin1');

test('the driver sees one port and the size of the terminal', () => {
  const { console } = new Setup();

  expect(console.virtioId).toBe(3);
  expect(console.queueSizes).toEqual([256, 256]);
  expect(console.features & 0xffn).toBe(F_SIZE);
  expect([...console.config]).toEqual([80, 0, 25, 0, 1, 0, 0, 0, 0, 0, 0, 0]);
});

test('output goes to the host whole and in order, and each chain is given back empty', async () => {
  const { host, transmit } = new Setup().activate();

  const given = await Promise.all(['one ', '', 'two'].map((it) => transmit.offer(bytesOf(it), 8)));

  expect(host.shown).toBe('one two');
  expect(given).toEqual([NOTHING, NOTHING, NOTHING]);
});

test('of one request of 1 MiB the host gets as much as it keeps: the end', async () => {
  const { host, transmit } = new Setup().activate();
  const text = Array.from({ length: 1 << 17 }, (_, i) => `${i}`.padStart(8)).join('');

  await transmit.offer(bytesOf(text), 0);

  expect(host.shown).toBe(text.slice(-RING_BYTES));
});

test('input fills chains in order, whatever comes first and however long they are', async () => {
  await fc.assert(
    fc.asyncProperty(
      fc.array(fc.oneof(fc.nat(30), fc.string({ maxLength: 30, unit: 'grapheme-ascii' })), {
        maxLength: 20,
      }),
      async (steps) => {
        const { host, receive } = new Setup().activate();
        let read = '';
        for (const step of steps) {
          if (typeof step === 'string') host.type(step);
          else
            void receive.offer(NOTHING, step).then((bytes) => {
              read += textOf(bytes);
            });
        }
        await new Promise((resolve) => setImmediate(resolve));
        const typed = steps.filter((step) => typeof step === 'string').join('');
        expect(read + host.waiting).toBe(typed);
        expect(host.waiting === '' || receive.waitingCount === 0).toBe(true);
      },
    ),
  );
});

test('chains without room are given back, and take no input with them', async () => {
  const { host, receive } = new Setup().activate();
  const rounds = Array.from({ length: 100 }, () => receive.offer(NOTHING, 0));

  host.type('x');

  for (const bytes of await Promise.all(rounds)) expect(bytes).toEqual(NOTHING);
  expect(host.waiting).toBe('x');
});

test('input waits with the host while there is no driver, before and after a reset', async () => {
  const setup = new Setup();
  setup.host.type('early ');
  setup.activate();
  expect(textOf(await setup.receive.offer(NOTHING, 80))).toBe('early ');
  await setup.console.reset();

  void setup.receive.offer(NOTHING, 80);
  setup.host.type('late');

  expect(setup.host.waiting).toBe('late');
  expect(setup.receive.waitingCount).toBe(1);
});

test('no request is out while paused', async () => {
  const { console, host, receive, transmit } = new Setup().activate();
  await console.pause();
  await Promise.all([receive.pause(), transmit.pause()]);
  const answers = [receive.offer(NOTHING, 8), transmit.offer(bytesOf('out'), 0)];
  host.type('in');
  expect([host.shown, host.waiting]).toEqual(['', 'in']);

  console.resume();
  receive.resume();
  transmit.resume();

  expect(textOf((await answers[0]) ?? NOTHING)).toBe('in');
  expect(host.shown).toBe('out');
});

test('a resize is in the configuration at once, and the driver hears of it', () => {
  const setup = new Setup().activate();

  setup.host.resize(132, 50);
  setup.host.resize(132, 50);

  expect([...setup.console.config.subarray(0, 4)]).toEqual([132, 0, 50, 0]);
  expect(setup.changes).toBe(1);
});

test('a driver that did not ask for the size, or is not there, hears nothing', async () => {
  const without = new Setup().activate(0n);
  const reset = new Setup().activate();
  await reset.console.reset();

  for (const { host } of [without, reset]) host.resize(1, 1);

  expect([without.changes, reset.changes]).toEqual([0, 0]);
});

test('a driver without queues harms nothing', () => {
  const { console, host } = new Setup();
  console.activate({
    features: 0n,
    queues: [undefined, undefined],
    configChanged: () => {},
    needsReset: () => {},
  });

  host.type('x');

  expect(host.waiting).toBe('x');
});
