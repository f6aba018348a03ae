import fc from 'fast-check';
import { expect, test } from 'vitest';
import { CpuHotplug } from '../../../../src/devices/acpi/cpu-hotplug.ts';

const SELECT = 0;
const STATUS = 4;
const PRESENT = 1;
const INSERTED = 2;
const TO_REMOVE = 4;
const EJECT = 8;

/** A machine of `max` processors, the first `present` of them there; and the guest's view of it. */
function create(present: number, max: number) {
  const ejected: number[] = [];
  const device = new CpuHotplug({
    gpa: 0x1000,
    madtEntries: Array.from({ length: max }, () => new Uint8Array(16)),
    presentCount: present,
    onEject: (processor) => ejected.push(processor),
  });
  const select = (processor: number) => device.write(SELECT, 4, processor);
  const status = (processor: number) => {
    select(processor);
    return device.read(STATUS, 1);
  };
  const write = (processor: number, value: number) => {
    select(processor);
    device.write(STATUS, 1, value);
  };
  const statuses = () => Array.from({ length: max }, (_, i) => status(i));
  return { device, ejected, status, write, statuses };
}

test('those there at boot are present, and news of nobody', () => {
  const { device, statuses } = create(2, 4);

  expect(statuses()).toEqual([PRESENT, PRESENT, 0, 0]);
  expect([device.presentCount, device.isRemoving]).toEqual([2, false]);
});

test('who is inserted is present, and told of until the guest has seen it', () => {
  const { device, statuses, write } = create(1, 4);

  device.insertUpTo(3);
  expect(statuses()).toEqual([PRESENT, PRESENT | INSERTED, PRESENT | INSERTED, 0]);

  write(1, INSERTED);
  expect(statuses()).toEqual([PRESENT, PRESENT, PRESENT | INSERTED, 0]);
});

test('who is to go stays present until the guest gives it up, in any order', () => {
  const { device, ejected, statuses, write } = create(4, 4);

  device.removeDownTo(2);
  const asked = PRESENT | TO_REMOVE;
  expect(statuses()).toEqual([PRESENT, PRESENT, asked, asked]);
  expect([device.presentCount, device.isRemoving]).toEqual([2, true]);

  write(2, TO_REMOVE);
  write(3, TO_REMOVE);
  expect(statuses()).toEqual([PRESENT, PRESENT, PRESENT, PRESENT]);
  expect(device.isRemoving).toBe(true);

  write(2, EJECT);
  expect(device.isRemoving).toBe(true);
  write(3, EJECT);
  expect(statuses()).toEqual([PRESENT, PRESENT, 0, 0]);
  expect(ejected).toEqual([2, 3]);
  expect([device.presentCount, device.isRemoving]).toEqual([2, false]);
});

test('who has gone can come again', () => {
  const { device, ejected, status, write } = create(2, 2);
  for (let round = 0; round < 3; round++) {
    device.removeDownTo(1);
    write(1, EJECT);
    device.insertUpTo(2);
    expect(status(1)).toBe(PRESENT | INSERTED);
  }
  expect(ejected).toEqual([1, 1, 1]);
});

test('of one that has not been seen to come, the guest hears both', () => {
  const { device, status } = create(1, 2);
  device.insertUpTo(2);
  device.removeDownTo(1);
  expect(status(1)).toBe(PRESENT | INSERTED | TO_REMOVE);
});

test('nobody leaves who was not asked to: not the first, not one there, not one absent', () => {
  const { device, ejected, statuses, write } = create(2, 3);
  device.removeDownTo(1);

  for (const processor of [0, 2, 3, 0xffff_ffff]) write(processor, EJECT | INSERTED | TO_REMOVE);

  expect(ejected).toEqual([]);
  expect(statuses()).toEqual([PRESENT, PRESENT | TO_REMOVE, 0]);
});

test('an absent processor reads as nothing, whatever its number', () => {
  const { status } = create(1, 2);
  fc.assert(
    fc.property(fc.integer({ min: 1, max: 0xffff_ffff }), (processor) => {
      expect(status(processor)).toBe(0);
    }),
  );
});

test('no writes of a guest give it a processor, or take one that was not asked for', () => {
  const access = fc.record({
    offset: fc.nat(0x10),
    sizeBytes: fc.constantFrom(1, 2, 4),
    value: fc.oneof(fc.nat(8), fc.nat(0xffff_ffff)),
  });
  fc.assert(
    fc.property(fc.array(access, { maxLength: 100 }), (accesses) => {
      const { device, ejected, statuses } = create(4, 6);
      device.removeDownTo(2);

      for (const { offset, sizeBytes, value } of accesses) device.write(offset, sizeBytes, value);

      expect(device.presentCount).toBe(2);
      expect(ejected.every((processor) => processor === 2 || processor === 3)).toBe(true);
      expect(new Set(ejected).size).toBe(ejected.length);
      expect(device.isRemoving).toBe(ejected.length < 2);
      const there = statuses().map((status) => status & PRESENT);
      expect(there).toEqual([1, 1, ...[2, 3].map((i) => (ejected.includes(i) ? 0 : 1)), 0, 0]);
    }),
  );
});

test('claims twelve bytes at its address', () => {
  expect(create(1, 1).device.claims).toEqual([{ space: 'mmio', base: 0x1000, sizeBytes: 12 }]);
});
