import { expect, test } from 'vitest';
import { Shutdown } from '../../../../src/devices/acpi/shutdown.ts';

function create() {
  const done: string[] = [];
  const device = new Shutdown({
    port: 0x600,
    onReset: () => done.push('reset'),
    onPowerOff: () => done.push('power off'),
  });
  return { device, done };
}

test.each([
  [0x01, 'reset'],
  [0x34, 'power off'],
])('writing %i means %s', (value, outcome) => {
  const { device, done } = create();

  device.write(0, 1, value);

  expect(done).toEqual([outcome]);
});

test.each([
  ['another sleep type', 0, 1, 0x24],
  ['S5 without the enable bit', 0, 1, 0x14],
  ['clearing wake status', 0, 1, 0x80],
  ['a wide write', 0, 4, 0x34],
  ['the next port', 1, 1, 0x34],
])('%s does nothing', (_what, offset, sizeBytes, value) => {
  const { device, done } = create();

  device.write(offset, sizeBytes, value);

  expect(done).toEqual([]);
});

test('wake status reads 0, all else all ones', () => {
  const { device } = create();
  expect([device.read(0, 1), device.read(0, 2), device.read(3, 1)]).toEqual([0, 0xffff, 0xff]);
});
