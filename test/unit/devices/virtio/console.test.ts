import fc from 'fast-check';
import { expect, test } from 'vitest';
import { Console } from '../../../../src/devices/virtio/console.ts';
import { F_VERSION_1 } from '../../../../src/devices/virtio/device.ts';
import { DEVICE_CONFIG, Driver, NOTHING, RUNNING } from '../../support/driver.ts';
import { FakeCharHost } from '../../support/fake-char-host.ts';

const RECEIVE = 0;
const TRANSMIT = 1;
const F_SIZE = 1n;
const RING_BYTES = 64 * 1024;

function setUp(features?: bigint) {
  const host = new FakeCharHost();
  const driver = new Driver(new Console(host));
  driver.start(features === undefined ? {} : { features });
  return { host, driver };
}

const bytesOf = (text: string): Uint8Array => Buffer.from(text, 'latin1');
const textOf = (bytes: Uint8Array): string => Buffer.from(bytes).toString('latin1');
const turn = () => new Promise((resolve) => setImmediate(resolve));

test('the driver sees one port and the size of the terminal', () => {
  const { driver } = setUp();

  expect(driver.get('queueCount')).toBe(2);
  expect(driver.offered & 0xffn).toBe(F_SIZE);
  const config = Array.from({ length: 12 }, (_, i) => driver.read(DEVICE_CONFIG + i, 1));
  expect(config).toEqual([80, 0, 25, 0, 1, 0, 0, 0, 0, 0, 0, 0]);
});

test('output goes to the host whole and in order, and each chain is given back empty', async () => {
  const { host, driver } = setUp();

  const given = await Promise.all(
    ['one ', '', 'two'].map((text) => driver.request(TRANSMIT, bytesOf(text), 8)),
  );

  expect(host.shown).toBe('one two');
  expect(given).toEqual([NOTHING, NOTHING, NOTHING]);
});

test('of one request of 1 MiB the host gets as much as it keeps: the end', async () => {
  const { host, driver } = setUp();
  const text = Array.from({ length: 1 << 17 }, (_, i) => `${i}`.padStart(8)).join('');

  await driver.request(TRANSMIT, bytesOf(text), 0);

  expect(host.shown).toBe(text.slice(-RING_BYTES));
});

test('input fills chains in order, whatever comes first and however long they are', async () => {
  await fc.assert(
    fc.asyncProperty(
      fc.array(fc.oneof(fc.nat(30), fc.string({ maxLength: 30, unit: 'grapheme-ascii' })), {
        maxLength: 20,
      }),
      async (steps) => {
        const { host, driver } = setUp();
        let read = '';
        for (const step of steps) {
          if (typeof step === 'string') host.type(step);
          else
            void driver.request(RECEIVE, NOTHING, step).then((bytes) => {
              read += textOf(bytes);
            });
          await turn();
        }
        const typed = steps.filter((step) => typeof step === 'string').join('');
        expect(read + host.waiting).toBe(typed);
        expect(host.waiting === '' || driver.queue(RECEIVE).waitingCount === 0).toBe(true);
      },
    ),
  );
});

test('chains without room are given back, and take no input with them', async () => {
  const { host, driver } = setUp();
  const rounds = Array.from({ length: 100 }, () => driver.request(RECEIVE, NOTHING, 0));

  host.type('x');

  for (const bytes of await Promise.all(rounds)) expect(bytes).toEqual(NOTHING);
  expect(host.waiting).toBe('x');
});

test('input waits with the host while there is no driver, before and after a reset', async () => {
  const host = new FakeCharHost();
  const driver = new Driver(new Console(host));
  host.type('early ');
  driver.start();
  expect(textOf(await driver.request(RECEIVE, NOTHING, 80))).toBe('early ');
  await driver.reset();

  host.type('late');

  expect(host.waiting).toBe('late');
  driver.start();
  expect(textOf(await driver.request(RECEIVE, NOTHING, 80))).toBe('late');
});

test('no request is out while paused, and what came meanwhile is done afterwards', async () => {
  const { host, driver } = setUp();
  await driver.pci.pause();
  const received = driver.request(RECEIVE, NOTHING, 8);
  const sent = driver.request(TRANSMIT, bytesOf('out'), 0);
  host.type('in');
  await turn();
  expect([host.shown, host.waiting]).toEqual(['', 'in']);

  driver.pci.resume();

  expect(textOf(await received)).toBe('in');
  await sent;
  expect(host.shown).toBe('out');
});

test('a resize is in the configuration at once, and the driver hears of it once', () => {
  const { host, driver } = setUp();

  host.resize(132, 50);
  host.resize(132, 50);

  expect(driver.read(DEVICE_CONFIG, 4)).toBe((50 << 16) | 132);
  expect(driver.interrupts(0)).toBe(1);
});

test('a driver that did not ask for the size, or is not there, hears nothing of it', async () => {
  const without = setUp(F_VERSION_1);
  const reset = setUp();
  await reset.driver.reset();

  for (const { host } of [without, reset]) host.resize(1, 1);

  expect(without.driver.status).toBe(RUNNING);
  expect([without.driver.interrupts(0), reset.driver.interrupts(0)]).toEqual([0, 0]);
});

test('a driver without queues harms nothing', () => {
  const host = new FakeCharHost();
  const driver = new Driver(new Console(host));
  driver.start({ queues: [] });

  host.type('x');

  expect(driver.status).toBe(RUNNING);
  expect(host.waiting).toBe('x');
});
