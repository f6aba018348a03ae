import { expect, test } from 'vitest';
import { GIB, MIB } from '../../../../src/bytes.ts';
import { MEMORY_SLOTS, MemoryHotplug } from '../../../../src/devices/acpi/memory-hotplug.ts';

const [SELECT, SIZE, PROXIMITY, STATUS] = [0, 8, 0x10, 0x14];
const [PRESENT, INSERTED] = [1, 2];

function make(...modules: [gpa: number, sizeBytes: number][]): MemoryHotplug {
  const memory = new MemoryHotplug({ gpa: 0x1000 });
  for (const [gpa, sizeBytes] of modules) memory.insert(gpa, sizeBytes);
  return memory;
}

const select = (memory: MemoryHotplug, slot: number): void => memory.write(SELECT, 4, slot);
const u64 = (memory: MemoryHotplug, offset: number): number =>
  memory.read(offset, 4) + 2 ** 32 * memory.read(offset + 4, 4);

test('each module tells where it lies, and that it has come', () => {
  const memory = make([4 * GIB, 128 * MIB], [4 * GIB + 128 * MIB, 5 * GIB]);

  select(memory, 1);

  expect(u64(memory, SELECT)).toBe(4 * GIB + 128 * MIB);
  expect(u64(memory, SIZE)).toBe(5 * GIB);
  expect(memory.read(PROXIMITY, 4)).toBe(0);
  expect(memory.read(STATUS, 1)).toBe(PRESENT | INSERTED);
});

test('what the guest has seen come stays, and nothing else of it can be written', () => {
  const memory = make([4 * GIB, 128 * MIB], [5 * GIB, 128 * MIB]);
  memory.write(STATUS, 1, 0xff & ~INSERTED);
  expect(memory.read(STATUS, 1)).toBe(PRESENT | INSERTED);

  memory.write(STATUS, 1, 0xff);

  expect(memory.read(STATUS, 1)).toBe(PRESENT);
  for (const offset of [4, SIZE, SIZE + 4, PROXIMITY]) memory.write(offset, 4, 0xffff_ffff);
  expect(u64(memory, SELECT)).toBe(4 * GIB);
  select(memory, 1);
  expect(memory.read(STATUS, 1)).toBe(PRESENT | INSERTED);
});

test.each([1, 7, 8, 0xffff_ffff])('slot %i is empty', (slot) => {
  const memory = make([4 * GIB, 128 * MIB]);

  select(memory, slot);
  memory.write(STATUS, 1, 0xff);

  expect([u64(memory, SELECT), u64(memory, SIZE), memory.read(STATUS, 1)]).toEqual([0, 0, 0]);
});

test('there is room for eight', () => {
  const memory = make();

  for (let i = 0; i < MEMORY_SLOTS; i++) {
    expect(memory.hasRoom).toBe(true);
    memory.insert(4 * GIB + i * 128 * MIB, 128 * MIB);
  }

  expect(memory.hasRoom).toBe(false);
});
