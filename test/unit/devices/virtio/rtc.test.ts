import fc from 'fast-check';
import { expect, test } from 'vitest';
import { Writer } from '../../../../src/bytes.ts';
import { Rtc } from '../../../../src/devices/virtio/rtc.ts';
import { Driver } from '../../support/driver.ts';

const NOW_NS = 1_764_482_581_123_456_789n;

function start(): Driver {
  const driver = new Driver(new Rtc(() => NOW_NS));
  driver.start();
  return driver;
}

/** The first bytes of a request, and the clock that it names. */
const asking = (type: number, clock = 0): Uint8Array =>
  new Writer(16).u16(0, type).u16(8, clock).bytes;

const answerOf = (request: Uint8Array, writableBytes = 64): Promise<Uint8Array> =>
  start().request(0, request, writableBytes);

const READ = 0x0001;
const CROSS_READ = 0x0002;
const CONFIG = 0x1000;
const CAPABILITIES = 0x1001;
const CROSS_CAPABILITIES = 0x1002;

const head = (status: number): Uint8Array => new Writer(8).u8(0, status).bytes;

test('there is one clock, of UTC that may be smeared, and no cross-timestamps', async () => {
  expect(await answerOf(asking(CONFIG).subarray(0, 8))).toEqual(new Writer(16).u16(8, 1).bytes);
  expect(await answerOf(asking(CAPABILITIES))).toEqual(new Writer(16).u8(8, 4).bytes);
  expect(await answerOf(asking(CROSS_CAPABILITIES))).toEqual(new Uint8Array(16));
});

test('a reading is the nanoseconds of the host since 1970', async () => {
  expect(await answerOf(asking(READ))).toEqual(new Writer(16).u64(8, NOW_NS).bytes);
});

test.each([READ, CAPABILITIES, CROSS_CAPABILITIES])(
  '0x%x of a second clock: no such device',
  async (type) => {
    expect(await answerOf(asking(type, 1))).toEqual(new Writer(16).u8(0, 3).bytes);
  },
);

test('what is not understood is not supported, what is cut short is invalid', async () => {
  expect(await answerOf(asking(CROSS_READ))).toEqual(head(2));
  expect(await answerOf(asking(0xffff))).toEqual(head(2));
  expect(await answerOf(asking(READ).subarray(0, 15))).toEqual(head(4));
  expect(await answerOf(asking(READ).subarray(0, 7))).toEqual(head(4));
});

test('an answer that does not fit says so in its head, or is left out', async () => {
  expect(await answerOf(asking(READ), 15)).toEqual(head(4));
  expect(await answerOf(asking(READ), 7)).toEqual(new Uint8Array(0));
});

test('whatever is asked is answered once, with no more than 16 bytes', async () => {
  const driver = start();
  await fc.assert(
    fc.asyncProperty(fc.uint8Array({ maxLength: 40 }), fc.nat(40), async (request, room) => {
      const chain = driver.offer(0, request, room);
      driver.kick(0);
      expect((await chain.done).length).toBeLessThanOrEqual(Math.min(room, 16));
      expect(chain.completeCount).toBe(1);
    }),
  );
});
