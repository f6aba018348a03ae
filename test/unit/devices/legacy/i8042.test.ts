import { expect, test } from 'vitest';
import { I8042 } from '../../../../src/devices/legacy/i8042.ts';

function create() {
  let resets = 0;
  const device = new I8042({ port: 0x61, onReset: () => resets++ });
  return { device, resets: () => resets };
}

test('0xfe to port 0x64 resets, other commands and ports do not', () => {
  const { device, resets } = create();
  device.write(3, 1, 0xff);
  device.write(0, 1, 0xfe);
  device.write(3, 2, 0xfe);
  expect(resets()).toBe(0);

  device.write(3, 1, 0xfe);

  expect(resets()).toBe(1);
});

test('port 0x61 shows timer 2 done, port 0x64 a ready controller, the rest nobody', () => {
  const { device } = create();
  expect([0, 1, 2, 3].map((offset) => device.read(offset, 1))).toEqual([0x20, 0xff, 0xff, 0]);
  expect(device.read(0, 4)).toBe(0xffff_ffff);
});
