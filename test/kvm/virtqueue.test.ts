import { once } from 'node:events';
import { readdirSync, readFileSync } from 'node:fs';
import { setImmediate as nextTurn, setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';
import { Worker } from 'node:worker_threads';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { type Chain, type GuestMemory, native, type Virtqueue } from '../../src/native.ts';
import { until } from '../support/micro-guest.ts';
import { RingDriver } from '../support/ring-driver.ts';

const ADDON = fileURLToPath(new URL('../../build/Release/cloud_hypervisor.node', import.meta.url));
const TEXT_GPA = 0x2_0000;
const ROOM_GPA = 0x2_1000;
const TEXT = Uint8Array.from(Buffer.from('a request'));
const BYTE = [{ gpa: ROOM_GPA, sizeBytes: 1, write: true }];

let memory: GuestMemory;
let driver: RingDriver;
let queue: Virtqueue;

beforeEach(() => {
  memory = new native.GuestMemory();
  memory.addRegion({ gpa: 0, sizeBytes: 1 << 20, shared: false, thp: false });
  memory.write(TEXT_GPA, TEXT);
  driver = new RingDriver(memory);
  queue = driver.device();
});

afterEach(async () => {
  queue.close();
  driver.close();
  await memory.close();
});

const peek = (gpa: number, sizeBytes: number) => {
  const bytes = new Uint8Array(sizeBytes);
  memory.read(gpa, bytes);
  return bytes;
};

/** Serves each chain with `work` as it comes. */
const serve = (work: (chain: Chain) => void) =>
  queue.onKick(() => {
    for (let chain = queue.take(); chain; chain = queue.take()) work(chain);
  });

/** The chain at `head`, one byte to be written, offered and taken. */
const takeByte = (head = 0): Chain => {
  driver.send(head, BYTE);
  const chain = queue.take();
  expect(chain).toBeDefined();
  return chain as Chain;
};

describe('a queue that is served', () => {
  test('is read, filled, given back, and interrupts', async () => {
    serve((chain) => {
      const bytes = new Uint8Array(chain.readableBytes);
      chain.read(bytes);
      chain.complete(chain.write(bytes));
    });

    driver.send(2, [
      { gpa: TEXT_GPA, sizeBytes: 2 },
      { gpa: TEXT_GPA + 2, sizeBytes: TEXT.length - 2 },
      { gpa: ROOM_GPA, sizeBytes: 3, write: true },
      { gpa: ROOM_GPA + 0x100, sizeBytes: 100, write: true },
    ]);
    await until(() => driver.irq.take());

    expect(driver.used()).toEqual([{ head: 2, writtenBytes: TEXT.length }]);
    expect(peek(ROOM_GPA, 4)).toEqual(Uint8Array.of(...TEXT.subarray(0, 3), 0));
    expect(peek(ROOM_GPA + 0x100, TEXT.length - 3)).toEqual(TEXT.subarray(3));
  });

  test.each([false, true])('runs its handler once a kick (event indices: %s)', async (eventIdx) => {
    driver = new RingDriver(memory, { eventIdx });
    queue = driver.device();
    let runs = 0;
    queue.onKick(() => {
      runs++;
      while (queue.take()?.complete(0) !== undefined);
    });
    await until(() => runs === 1); // what was offered before anyone listened
    await nextTurn();

    for (let head = 0; head < 3; head++) {
      driver.send(head, BYTE);
      await until(() => runs === head + 2);
      await sleep(5);
    }

    expect(runs).toBe(4);
  });

  test('tells what was offered before anyone listened', async () => {
    driver.describe(0, BYTE);
    driver.offer(0);

    serve((chain) => chain.complete(0));
    await until(() => driver.irq.take());

    expect(driver.used()).toHaveLength(1);
  });

  test('gives chains back in the order of their completion, an interrupt each', async () => {
    const chains = [0, 1, 2].map(takeByte);

    for (const index of [2, 0, 1]) {
      chains[index]?.complete(1);
      expect(driver.irq.take()).toBe(true);
    }

    expect(driver.used().map(({ head }) => head)).toEqual([2, 0, 1]);
  });

  test('interrupts once for all that its handler completed', async () => {
    [0, 1, 2].forEach((head) => void driver.describe(head, BYTE));
    driver.offer(0, 1, 2);
    const early: boolean[] = [];

    serve((chain) => {
      chain.complete(0);
      early.push(driver.irq.pending());
    });
    await until(() => driver.irq.take());

    expect(early).toEqual([false, false, false]);
    expect(driver.used()).toHaveLength(3);
  });

  test('lets timers have their turn, whatever the driver offers', async () => {
    let served = 0;
    driver.describe(0, BYTE);
    driver.offer(0);
    serve((chain) => {
      chain.complete(0);
      driver.offer(0); // faster than any guest
      served++;
    });

    const seen: number[] = [];
    for (let round = 0; round < 3; round++) {
      await sleep(1);
      seen.push(served);
    }

    expect(new Set(seen).size).toBe(3);
    expect(seen.every((count) => count % driver.size === 0)).toBe(true);
  });

  test('lets no handler take more a turn than it holds', async () => {
    const shares: number[] = [];
    driver.describe(0, BYTE);
    driver.offer(0);
    queue.onKick(() => {
      let share = 0;
      for (let chain = queue.take(); chain; chain = queue.take(), share++) {
        chain.complete(0);
        if (shares.length < 2) driver.offer(0);
      }
      shares.push(share);
    });

    await until(() => shares.length === 3);

    expect(shares).toEqual([driver.size, driver.size, 1]);
  });
});

describe('a chain', () => {
  test('is read and written from an offset on, as far as it goes', () => {
    driver.send(0, [
      { gpa: TEXT_GPA, sizeBytes: 4 },
      { gpa: TEXT_GPA + 4, sizeBytes: 5 },
      { gpa: ROOM_GPA, sizeBytes: 2, write: true },
      { gpa: ROOM_GPA + 2, sizeBytes: 2, write: true },
    ]);
    const chain = queue.take() as Chain;
    const bytes = new Uint8Array(4);

    expect([chain.readableBytes, chain.writableBytes]).toEqual([9, 4]);
    expect(chain.read(bytes, 3)).toBe(4);
    expect(bytes).toEqual(TEXT.subarray(3, 7));
    expect([chain.read(bytes, 8), chain.read(bytes, 9), chain.read(bytes, 2 ** 53 - 1)]).toEqual([
      1, 0, 0,
    ]);
    expect([chain.write(TEXT, 1), chain.write(TEXT, 4), chain.write(TEXT, 3)]).toEqual([3, 0, 1]);
    expect(peek(ROOM_GPA, 5)).toEqual(
      Uint8Array.of(0, TEXT[0] ?? 0, TEXT[1] ?? 0, TEXT[0] ?? 0, 0),
    );
  });

  test('of empty buffers is one', () => {
    driver.send(0, [
      { gpa: 0, sizeBytes: 0 },
      { gpa: 0, sizeBytes: 0, write: true },
    ]);
    const chain = queue.take() as Chain;

    expect([chain.readableBytes, chain.writableBytes, chain.write(TEXT)]).toEqual([0, 0, 0]);
    chain.complete(0);
    expect(driver.used()).toEqual([{ head: 0, writtenBytes: 0 }]);
  });

  test('is given back once', () => {
    const chain = takeByte();

    chain.complete(1);
    chain.complete(1);

    expect(driver.used()).toEqual([{ head: 0, writtenBytes: 1 }]);
    expect([chain.write(TEXT), chain.read(new Uint8Array(1))]).toEqual([0, 0]);
  });

  test('cannot be said to have more than it has room for', () => {
    const chain = takeByte();

    for (const bytes of [2, -1, 2 ** 32, 0.5, Number.NaN])
      expect(() => chain.complete(bytes)).toThrow(TypeError);
    chain.complete(1);

    expect(driver.used()).toHaveLength(1);
  });

  test('does nothing once its queue is closed', () => {
    const chain = takeByte();
    driver.irq.take();

    queue.close();
    queue.close();

    expect([chain.write(TEXT), chain.read(new Uint8Array(1))]).toEqual([0, 0]);
    chain.complete(1);
    expect(peek(ROOM_GPA, 1)).toEqual(Uint8Array.of(0));
    expect(driver.used()).toEqual([]);
    expect(driver.irq.pending()).toBe(false);
    expect(queue.take()).toBeUndefined();
  });
});

describe('a pause', () => {
  test('waits for the chains that are out, and hands out none until it ends', async () => {
    const chains = [takeByte(0), takeByte(1)];
    let runs = 0;
    queue.onKick(() => void runs++);
    let paused = false;

    const pause = queue.pause().then(() => {
      paused = true;
    });
    driver.send(2, BYTE);
    chains[0]?.complete(1);
    await sleep(5);
    const early = { paused, runs, taken: queue.take() };
    chains[1]?.complete(1);
    await pause;
    queue.resume();
    await until(() => runs > 0);

    expect(early).toEqual({ paused: false, runs: 0, taken: undefined });
    expect(queue.take()).toBeDefined();
  });

  test('of a queue with no chain out is at once, and ends with the queue', async () => {
    await queue.pause();
    queue.resume();
    takeByte();

    const pause = queue.pause();
    queue.close();

    await pause;
  });
});

describe('a queue whose driver breaks a rule', () => {
  test('says so once, from the loop, and hands out nothing more', async () => {
    queue.onKick(() => {});
    const chain = takeByte();
    driver.offer(driver.size);

    expect([queue.take(), queue.take(), queue.take()]).toEqual([undefined, undefined, undefined]);
    expect(driver.broken).toEqual([]);
    await sleep(5);
    driver.send(1, BYTE);
    await sleep(5);

    expect(driver.broken).toEqual(['head beyond the table']);
    chain.complete(1);
    await queue.pause();
    expect(driver.used()).toEqual([]);
  });

  test('is heard of although its handler takes nothing', async () => {
    const outside = new RingDriver(memory, { ringsGpa: 1 << 20 });
    queue = outside.device();

    queue.onKick(() => {});
    await until(() => outside.broken.length > 0);

    expect(outside.broken).toEqual(['ring outside RAM']);
  });

  test('writes nothing where RAM was', async () => {
    const chain = takeByte();
    await memory.close();

    chain.write(TEXT);
    chain.complete(1);
    await until(() => driver.broken.length > 0);

    expect(driver.broken).toEqual(['ring outside RAM']);
  });

  test('is not heard of after it was closed', async () => {
    driver.offer(driver.size);
    queue.take();
    queue.close();

    await sleep(5);

    expect(driver.broken).toEqual([]);
  });
});

describe('what a queue holds', () => {
  const openCount = () => readdirSync('/proc/self/fd').length;

  test('is given back by closing it, while the kick stays the one of who made it', async () => {
    const before = openCount();
    for (let round = 0; round < 100; round++) {
      const each = new RingDriver(memory);
      const served = each.device();
      served.onKick(() => void served.take());
      served.close();
      each.kick.signal();
      expect(each.kick.take()).toBe(true);
      each.close();
      each.kick.signal();
    }
    await nextTurn();

    expect(openCount()).toBe(before);
  });

  test('is given back by collecting it', async () => {
    setFlagsFromString('--expose-gc');
    const collect = runInNewContext('gc') as () => void;
    const before = openCount();
    const make = () => {
      for (let count = 0; count < 50; count++) new RingDriver(memory).device().take();
    };

    make();
    await until(() => {
      collect();
      return openCount() <= before;
    });
  });

  test('serves one queue a kick', () => {
    queue.onKick(() => {});
    const other = driver.device();

    expect(() => other.onKick(() => {})).toThrow('EEXIST');
    queue.close();
    other.onKick(() => {});
    other.close();
  });

  test.each(['kick', 'irq'] as const)('cannot be a closed %s', (name) => {
    driver[name].close();

    expect(() => driver.device()).toThrow(new TypeError(`${name} is closed`));
  });
});

describe('RAM', () => {
  test('goes when it is closed, though a chain of a queue that was closed is never given back', async () => {
    const mapped = () => readFileSync('/proc/self/maps', 'utf8').match(/memfd:/g)?.length ?? 0;
    const before = mapped();
    memory.addRegion({ gpa: 1 << 20, sizeBytes: 1 << 20, shared: true, thp: false });
    const chain = takeByte();
    expect(mapped()).toBe(before + 1);

    queue.close();
    await memory.close();

    expect(mapped()).toBe(before);
    expect(chain.write(TEXT)).toBe(0);
  });
});

describe('an environment that ends while queues are served', () => {
  /** What a thread does with a queue that is kicked for ever; then, `act`. */
  const thread = (act: string) =>
    new Worker(
      `
      const native = require(${JSON.stringify(ADDON)});
      const memory = new native.GuestMemory();
      memory.addRegion({ gpa: 0, sizeBytes: 1 << 20, shared: false, thp: false });
      const make = () => {
        const kick = new native.EventFd();
        const irq = new native.EventFd();
        const gpas = { descGpa: 0x1000, availGpa: 0x2000, usedGpa: 0x3000 };
        const queue = new native.Virtqueue({
          memory, size: 8, ...gpas, indirect: false, eventIdx: false, kick, irq, onBroken() {},
        });
        return { queue, kick };
      };
      for (let count = 0; count < 20; count++) {
        const { queue, kick } = make();
        queue.onKick(() => { queue.take(); kick.signal(); ${act} });
        if (count % 3 === 0) queue.close();
      }
      `,
      { eval: true },
    );

  test.each([
    ['terminates', "require('node:worker_threads').parentPort.postMessage(1)"],
    ['exits', 'process.exit(0)'],
  ])('%s cleanly', async (_, act) => {
    const worker = thread(act);
    await once(worker, act.startsWith('process') ? 'exit' : 'message');
    await worker.terminate();
  });

  test('is not kept from ending by them', async () => {
    const [code] = await once(thread(''), 'exit');

    expect(code).toBe(0);
  });

  test('hears of a handler that throws', async () => {
    const [error] = await once(thread("throw new Error('ours')"), 'error');

    expect(error).toEqual(new Error('ours'));
  });
});

describe('a queue that another process serves', () => {
  test("is told by addresses and eventfds, and is nobody else's", () => {
    const shared = queue.share();

    expect(shared).toMatchObject({
      ...{ size: driver.size, descGpa: driver.descGpa, availGpa: driver.availGpa },
    });
    shared.kick();
    shared.interrupt();
    expect([driver.kick.take(), driver.irq.take()]).toEqual([true, true]);
    expect(() => queue.onKick(() => {})).toThrow(/^EBUSY/);
    expect(() => queue.share()).toThrow(/^EBUSY/);
    shared.close();
    shared.kick();
    expect(driver.kick.take()).toBe(false);
  });

  test('has its rings in RAM, or is not given away', () => {
    const outside = new RingDriver(memory, { ringsGpa: 1 << 20 });

    expect(() => outside.device().share()).toThrow('ring outside RAM');
    outside.close();
  });
});

test('RAM that others can map is told, by its place in a file', async () => {
  expect(memory.regions()).toEqual([]);
  memory.addRegion({ gpa: 1 << 20, sizeBytes: 4096, shared: true, thp: false });

  const [region] = memory.regions();

  expect(region).toMatchObject({ gpa: 1 << 20, sizeBytes: 4096, fileOffset: 0 });
  memory.write(1 << 20, TEXT);
  const theirs = readFileSync(`/proc/self/fd/${region?.fd}`);
  expect(theirs.subarray(0, TEXT.length)).toEqual(Buffer.from(TEXT));
});
