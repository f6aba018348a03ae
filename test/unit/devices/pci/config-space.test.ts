import fc from 'fast-check';
import { expect, test } from 'vitest';
import { ConfigSpace } from '../../../../src/devices/pci/config-space.ts';

const COMMAND = 0x04;
const MEMORY = 1 << 1;
const ALL = 0xffff_ffff;

const create = () =>
  new ConfigSpace({
    vendorId: 0x1af4,
    deviceId: 0x1042,
    classCode: 0x018000,
    revision: 1,
    subsystemVendorId: 0x1af4,
    subsystemId: 0x1042,
  });

/** A function with one BAR, and the places to which it was moved. */
function withBar(width: 32 | 64, sizeBytes: number, gpa: number) {
  const space = create();
  const moves: (number | undefined)[] = [];
  space.addBar({ index: 0, width, sizeBytes, gpa, onMove: (to) => moves.push(to) });
  return { space, moves };
}

test('the header names the function, whatever the width of the access', () => {
  const space = create();
  expect(space.read(0x00, 4)).toBe(0x1042_1af4);
  expect(space.read(0x02, 2)).toBe(0x1042);
  expect([space.read(0x08, 1), space.read(0x0a, 1), space.read(0x0b, 1)]).toEqual([1, 0x80, 1]);
  expect(space.read(0x2c, 4)).toBe(0x1042_1af4);
  expect([space.read(0x0e, 1), space.read(0x3c, 2), space.read(0x06, 2)]).toEqual([0, 0, 0]);
});

test('of the header, a guest changes memory decode, bus mastering and INTx disable only', () => {
  const space = create();
  for (let at = 0; at < 64; at += 4) void space.write(at, 4, ALL);
  expect(space.read(0, 4)).toBe(0x1042_1af4);
  expect(space.read(COMMAND, 4)).toBe(0x0406);
  expect([0x10, 0x24, 0x30, 0x34, 0x3c].map((at) => space.read(at, 4))).toEqual([0, 0, 0, 0, 0]);
});

test('all ones written to a BAR read back as the mask of its size', () => {
  fc.assert(
    fc.property(fc.integer({ min: 4, max: 40 }), (log2) => {
      const { space } = withBar(64, 2 ** log2, 2 ** log2);
      space.write(0x10, 4, ALL);
      space.write(0x14, 4, ALL);
      const low = space.read(0x10, 4);
      const mask = BigInt(space.read(0x14, 4)) * 2n ** 32n + BigInt(low - (low % 16));
      expect(low % 16).toBe(0b100); // 64 bits, not prefetchable
      expect(2n ** 64n - mask).toBe(2n ** BigInt(log2));
    }),
  );
});

test('a 32-bit BAR is sized in one register, and the next stays empty', () => {
  const { space } = withBar(32, 0x8_0000, 0xe7f8_0000);
  expect(space.read(0x10, 4)).toBe(0xe7f8_0000);
  space.write(0x10, 4, ALL);
  space.write(0x14, 4, ALL);
  expect([space.read(0x10, 4), space.read(0x14, 4)]).toEqual([0xfff8_0000, 0]);
});

test('a BAR decodes from when memory decode is enabled, and moves with what is written', () => {
  const { space, moves } = withBar(64, 0x8_0000, 0xff_ff80_0000);
  expect(space.read(0x14, 4)).toBe(0xff);
  expect(moves).toEqual([]);

  space.write(COMMAND, 2, MEMORY);
  space.write(COMMAND, 2, 0);
  space.write(0x10, 4, 0x8000_0000);
  space.write(0x14, 4, 1);
  space.write(COMMAND, 2, MEMORY);
  space.write(COMMAND, 2, MEMORY);

  expect(moves).toEqual([0xff_ff80_0000, undefined, 0x1_8000_0000]);
});

test('a BAR beyond the last physical address decodes nowhere', () => {
  const { space, moves } = withBar(64, 0x8_0000, 0xff_ff80_0000);
  space.write(COMMAND, 2, MEMORY);

  space.write(0x14, 4, ALL);

  expect(moves).toEqual([0xff_ff80_0000, undefined]);
});

test('capabilities are chained from 0x34 at the places a virtio function has them', () => {
  const space = create();
  expect(space.read(0x06, 2) & 0x10).toBe(0);
  for (const bodyBytes of [14, 14, 14, 18, 18, 10])
    space.addCapability({ id: 9, body: new Uint8Array(bodyBytes) });

  const chain: number[] = [];
  for (let at = space.read(0x34, 1); at !== 0; at = space.read(at + 1, 1)) chain.push(at);

  expect(chain).toEqual([0x40, 0x50, 0x60, 0x70, 0x84, 0x98]);
  expect(space.read(0x06, 2)).toBe(0x10);
});

test('of a capability, a guest changes the writable bits, and the device hears of it', () => {
  const space = create();
  const seen: number[] = [];
  const body: Uint8Array = space.addCapability({
    id: 0x11,
    body: Uint8Array.of(0x02, 0x00, 0, 0),
    writable: Uint8Array.of(0x00, 0xc0, 0, 0),
    onWrite: () => void seen.push(body[1] ?? 0),
  });

  void space.write(0x40, 4, ALL);

  expect(seen).toEqual([0xc0]);
  expect(space.read(0x40, 4)).toBe(0xc002_0011);
});

test('a capability may be brought up to date before it is read, and only then', () => {
  const space = create();
  let reads = 0;
  const body: Uint8Array = space.addCapability({
    id: 9,
    body: new Uint8Array(6),
    onRead: () => {
      body[5] = ++reads;
    },
  });
  space.addCapability({ id: 9, body: new Uint8Array(2) });

  expect(space.read(0x44, 4)).toBe(0x0100_0000);
  expect([space.read(0x48, 4), space.read(0x3c, 4)]).toEqual([9, 0]);
  expect(reads).toBe(1);
});

test('an access across a multiple of four reads all ones and writes nothing', () => {
  const space = create();
  void space.write(COMMAND - 1, 2, 0x0600);
  expect([space.read(0x02, 4), space.read(0x03, 2)]).toEqual([ALL, 0xffff]);
  expect(space.read(COMMAND, 2)).toBe(0);
});

test('beyond 256 bytes everything is 0, to the end of the function', () => {
  const space = create();
  void space.write(0x100, 4, ALL);
  expect([space.read(0x100, 4), space.read(0xffc, 4), space.read(0x1000, 4)]).toEqual([0, 0, ALL]);
});

test.each([
  ['a size that is no power of two', { sizeBytes: 48 }],
  ['a size below the least', { sizeBytes: 8 }],
  ['a place that is not aligned', { gpa: 0x8000_0010 }],
  ['64 bits in the last BAR', { index: 5, width: 64 as const }],
])('a BAR of %s is a bug', (_what, wrong) => {
  const bar = { index: 0, width: 32 as const, sizeBytes: 0x1000, gpa: 0x8000_0000 };
  expect(() => create().addBar({ ...bar, onMove: () => {}, ...wrong })).toThrow(/BAR/);
});
