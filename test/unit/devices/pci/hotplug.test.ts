import fc from 'fast-check';
import { expect, test } from 'vitest';
import { PciHotplug } from '../../../../src/devices/pci/hotplug.ts';

const [PCIU, PCID, B0EJ, PSEG] = [0, 4, 8, 12] as const;

function create() {
  const ejected: number[] = [];
  const told: string[] = [];
  const device = new PciHotplug({
    gpa: 0x1000,
    slots: Array.from({ length: 31 }, (_, n) => n + 1),
    notify: () => told.push('notify'),
    onEject: (slot) => ejected.push(slot),
  });
  return { device, ejected, told };
}

test('slots that changed are told once each, after the guest has been told to look', () => {
  const { device, told } = create();

  device.plug(6);
  device.plug(31);
  device.unplug(3);

  expect(told).toHaveLength(3);
  expect(device.read(PCIU, 4)).toBe(2 ** 31 + 2 ** 6);
  expect(device.read(PCIU, 4)).toBe(0);
  expect(device.read(PCID, 4)).toBe(2 ** 3);
  expect(device.read(PCID, 4)).toBe(0);
});

test('who did not hear is asked again', () => {
  const { device, told } = create();
  device.unplug(3);
  device.read(PCID, 4);
  device.unplug(3);
  expect(device.read(PCID, 4)).toBe(8);
  expect(told).toHaveLength(2);
});

test('of an empty slot nothing is told', () => {
  const { device } = create();
  device.plug(3);
  device.unplug(3);
  device.plug(4);
  device.forget(3);
  expect([device.read(PCIU, 4), device.read(PCID, 4)]).toEqual([16, 0]);
});

test('each bit written to B0EJ lets go of its slot; slot 0 has the host bridge', () => {
  const { device, ejected } = create();
  device.write(B0EJ, 4, 0x8000_0005);
  expect(ejected).toEqual([2, 31]);
  expect(device.read(B0EJ, 4)).toBe(0);
});

test('there is one segment, whatever is written to PSEG', () => {
  const { device } = create();
  device.plug(3);
  device.write(PSEG, 4, 7);
  expect(device.read(PSEG, 4)).toBe(0);
  expect(device.read(PCIU, 4)).toBe(8);
});

test('no access of another width or place does or tells anything', () => {
  const { device, ejected } = create();
  device.plug(3);
  const place = fc.tuple(fc.nat(20), fc.constantFrom(1, 2, 4));
  fc.assert(
    fc.property(place, fc.nat(), ([offset, sizeBytes], value) => {
      fc.pre(sizeBytes !== 4 || offset % 4 !== 0);
      expect(device.read(offset, sizeBytes)).toBe(2 ** (8 * sizeBytes) - 1);
      device.write(offset, sizeBytes, value);
    }),
  );
  expect(ejected).toEqual([]);
  expect(device.read(PCIU, 4)).toBe(8);
});

test('it claims its sixteen bytes', () => {
  expect(create().device.claims).toEqual([{ space: 'mmio', base: 0x1000, sizeBytes: 16 }]);
});
