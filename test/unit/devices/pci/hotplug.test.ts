import fc from 'fast-check';
import { expect, test } from 'vitest';
import { PciHotplug } from '../../../../src/devices/pci/hotplug.ts';

const at = (slot: number, segment = 0) => ({ segment, slot });
const [PCIU, PCID, B0EJ, PSEG] = [0, 4, 8, 12] as const;

function create(segments = 1) {
  const ejected: [slot: number, segment: number][] = [];
  const told: string[] = [];
  const device = new PciHotplug({
    gpa: 0x1000,
    slots: Array.from({ length: 31 }, (_, n) => n + 1),
    notify: () => told.push('notify'),
    bridges: Array.from({ length: segments }, (_, n) => `\\_SB.PC0${n}`),
    onEject: ({ segment, slot }) => ejected.push([slot, segment]),
  });
  return { device, ejected, told };
}

test('slots that changed are told once each, after the guest has been told to look', () => {
  const { device, told } = create();

  device.plug(at(6));
  device.plug(at(31));
  device.unplug(at(3));

  expect(told).toHaveLength(3);
  expect(device.read(PCIU, 4)).toBe(2 ** 31 + 2 ** 6);
  expect(device.read(PCIU, 4)).toBe(0);
  expect(device.read(PCID, 4)).toBe(2 ** 3);
  expect(device.read(PCID, 4)).toBe(0);
});

test('who did not hear is asked again', () => {
  const { device, told } = create();
  device.unplug(at(3));
  device.read(PCID, 4);
  device.unplug(at(3));
  expect(device.read(PCID, 4)).toBe(8);
  expect(told).toHaveLength(2);
});

test('of an empty slot nothing is told', () => {
  const { device } = create();
  device.plug(at(3));
  device.unplug(at(3));
  device.plug(at(4));
  device.forget(at(3));
  expect([device.read(PCIU, 4), device.read(PCID, 4)]).toEqual([16, 0]);
});

test('each bit written to B0EJ lets go of its slot; slot 0 has the host bridge', () => {
  const { device, ejected } = create();
  device.write(B0EJ, 4, 0x8000_0005);
  expect(ejected).toEqual([
    [2, 0],
    [31, 0],
  ]);
  expect(device.read(B0EJ, 4)).toBe(0);
});

test('the registers are about the segment that was written to PSEG', () => {
  const { device, ejected } = create(3);
  device.plug(at(3));
  device.plug(at(4, 2));
  device.unplug(at(5, 2));
  device.unplug(at(6, 1));
  device.forget(at(6, 1));

  const changes = [0, 1, 2].map((segment) => {
    device.write(PSEG, 4, segment);
    return [device.read(PCIU, 4), device.read(PCID, 4)];
  });
  device.write(B0EJ, 4, 8);

  expect(changes).toEqual([
    [8, 0],
    [0, 0],
    [16, 32],
  ]);
  expect(device.read(PSEG, 4)).toBe(2);
  expect(ejected).toEqual([[3, 2]]);
});

test.each([3, 0xffff_ffff])('segment %d, which is not there, has no slots', (segment) => {
  const { device, ejected } = create(3);
  device.plug(at(3));

  device.write(PSEG, 4, segment);
  device.write(B0EJ, 4, 0xffff_ffff);

  expect([device.read(PCIU, 4), device.read(PCID, 4)]).toEqual([0, 0]);
  expect(ejected).toEqual([]);
});

test('no access of another width or place does or tells anything', () => {
  const { device, ejected } = create();
  device.plug(at(3));
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
