import { expect, test } from 'vitest';
import { GIB, MIB } from '../../../../src/bytes.ts';
import { Cmos } from '../../../../src/devices/legacy/cmos.ts';

function create({ below = 512 * MIB, above = 0, now = 0 } = {}) {
  const state = { nowMs: now, resets: 0 };
  const device = new Cmos({
    port: 0x70,
    ramBelow4GibBytes: below,
    ramAbove4GibBytes: above,
    nowMs: () => state.nowMs,
    onReset: () => state.resets++,
  });
  const read = (index: number): number => {
    device.write(0, 1, index);
    return device.read(1, 1);
  };
  const write = (index: number, value: number): void => {
    device.write(0, 1, index);
    device.write(1, 1, value);
  };
  return { device, state, read, write };
}

const CLOCK = [0x32, 0x09, 0x08, 0x07, 0x06, 0x04, 0x02, 0x00];

test.each([
  ['2024-02-29T23:59:58Z', [0x20, 0x24, 0x02, 0x29, 5, 0x23, 0x59, 0x58]], // a Thursday
  ['1999-12-31T09:08:07Z', [0x19, 0x99, 0x12, 0x31, 6, 0x09, 0x08, 0x07]],
  ['2100-01-03T00:00:00Z', [0x21, 0x00, 0x01, 0x03, 1, 0x00, 0x00, 0x00]], // a Sunday is 1
])('%s is told in BCD', (iso, registers) => {
  const { read } = create({ now: Date.parse(iso) });
  expect(CLOCK.map(read)).toEqual(registers);
});

test('time goes on, and no write changes it', () => {
  const { read, write, state } = create({ now: Date.parse('2024-01-01T00:00:00Z') });
  write(0x00, 0x33);

  state.nowMs += 1000;

  expect(read(0x00)).toBe(1);
});

test('status says: no update under way, 24 hours in BCD, no interrupt, valid', () => {
  const { read, write } = create();
  write(0x0b, 0xff);
  expect([0x0a, 0x0b, 0x0c, 0x0d].map(read)).toEqual([0x26, 0x02, 0x00, 0x80]);
});

test.each([
  [512 * MIB, 0, [0x00, 0x1f, 0, 0, 0]],
  [3 * GIB, 5 * GIB, [0x00, 0xbf, 0x00, 0x40, 0x01]],
  [MIB, 2 ** 45, [0, 0, 0xff, 0xff, 0xff]], // too little to tell, and more than can be told
])('RAM of %i and %i bytes is told in units of 64 KiB', (below, above, registers) => {
  const { read } = create({ below, above });
  expect([0x34, 0x35, 0x5b, 0x5c, 0x5d].map(read)).toEqual(registers);
});

test('other bytes are kept, with or without the bit that masks NMI', () => {
  const { read, write } = create();
  write(0x40, 0xab);
  expect([read(0x40), read(0xc0)]).toEqual([0xab, 0xab]);
});

test('0 into the shutdown status with NMI masked resets; as Linux starts a CPU, it does not', () => {
  const { write, state } = create();
  write(0x0f, 0x0a);
  write(0x0f, 0x00);
  write(0x8f, 0x0a);
  expect(state.resets).toBe(0);

  write(0x8f, 0x00);

  expect(state.resets).toBe(1);
});

test('the index port and wide accesses read all ones and change nothing', () => {
  const { device, write } = create();
  write(0x40, 1);
  device.write(0, 2, 0x41);
  device.write(1, 4, 2);
  expect([device.read(0, 1), device.read(1, 2), device.read(1, 1)]).toEqual([0xff, 0xffff, 1]);
});
