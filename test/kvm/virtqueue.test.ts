import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { type Chain, type GuestMemory, native, type Virtqueue } from '../../src/native.ts';
import { until } from '../support/micro-guest.ts';
import { RingDriver } from '../support/ring-driver.ts';

const TEXT_GPA = 0x2_0000;
const ROOM_GPA = 0x2_1000;
const TEXT = Uint8Array.from(Buffer.from('a request'));

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

const echo = (chain: Chain) => {
  const bytes = new Uint8Array(chain.readableBytes);
  chain.read(bytes);
  chain.complete(chain.write(bytes));
};

describe('a queue that is served here', () => {
  test('is read, filled, given back and interrupts', async () => {
    serve(echo);

    driver.send(2, [
      { gpa: TEXT_GPA, sizeBytes: 2 },
      { gpa: TEXT_GPA + 2, sizeBytes: TEXT.length - 2 },
      { gpa: ROOM_GPA, sizeBytes: 3, write: true },
      { gpa: ROOM_GPA + 0x100, sizeBytes: 100, write: true },
    ]);
    await until(() => driver.irq.take());

    expect(driver.used()).toEqual([{ head: 2, writtenBytes: TEXT.length }]);
    expect(peek(ROOM_GPA, 3)).toEqual(TEXT.subarray(0, 3));
    expect(peek(ROOM_GPA + 0x100, TEXT.length - 3)).toEqual(TEXT.subarray(3));
  });

  test('tells what was offered before anyone listened', async () => {
    driver.describe(0, [{ gpa: TEXT_GPA, sizeBytes: 1 }]);
    driver.offer(0);

    serve((chain) => chain.complete(0));
    await until(() => driver.irq.take());

    expect(driver.used()).toHaveLength(1);
  });
});
