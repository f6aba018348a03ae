import { expect, test } from 'vitest';
import { GED_EVENT, Ged } from '../../../../src/devices/acpi/ged.ts';

function create() {
  const interrupts: number[] = [];
  // What the guest would read at the moment of the interrupt must already be there.
  const irq = { set: (isHigh: boolean) => void (isHigh && interrupts.push(device.read(0, 1))) };
  const device = new Ged({ gpa: 0xff_ffef_0000, gsi: 13, irq, scans: {} });
  return { device, interrupts };
}

test('an event is there to read when its interrupt comes', () => {
  const { device, interrupts } = create();

  device.notify('powerButton');

  expect(interrupts).toEqual([8]);
});

test('reading clears: each event is told once', () => {
  const device = new Ged({ gpa: 0, gsi: 13, irq: { set: () => {} }, scans: {} });
  device.notify('powerButton');
  device.notify('cpus');

  expect([device.read(0, 1), device.read(0, 1)]).toEqual([9, 0]);
});

test('the line is up from an event until the guest has read of it', () => {
  const levels: boolean[] = [];
  const irq = { set: (isHigh: boolean) => void levels.push(isHigh) };
  const device = new Ged({ gpa: 0, gsi: 13, irq, scans: {} });

  device.notify('cpus');
  expect([device.read(0, 2), device.read(1, 1)]).toEqual([0xffff, 0xff]);
  expect(levels).toEqual([true]);
  device.read(0, 1);

  expect(levels).toEqual([true, false]);
});

test('an access that is not of the register loses no event', () => {
  const device = new Ged({ gpa: 0, gsi: 13, irq: { set: () => {} }, scans: {} });
  device.notify('powerButton');

  expect([device.read(0, 2), device.read(1, 1)]).toEqual([0xffff, 0xff]);
  device.write();
  expect(device.read(0, 1)).toBe(GED_EVENT.powerButton);
});

test('claims one byte at its address', () => {
  const { device } = create();
  expect(device.claims).toEqual([{ space: 'mmio', base: 0xff_ffef_0000, sizeBytes: 1 }]);
});
