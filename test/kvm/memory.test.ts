/** Guest RAM that comes and goes while the guest runs. */
import { readFileSync } from 'node:fs';
import { expect, test } from 'vitest';
import { native } from '../../src/native.ts';
import * as code from '../support/machine-code.ts';
import { MicroGuest, RESULT_GPA, until } from '../support/micro-guest.ts';

const MIB = 1 << 20;
const PLUGGED_GPA = 512 * MIB;
const NOBODY = 0xffff_ffff;

/** A guest that copies the word at `PLUGGED_GPA` to `RESULT_GPA`, for ever. */
async function watching(): Promise<MicroGuest> {
  const guest = new MicroGuest();
  await guest.start(code.forever([...code.load(PLUGGED_GPA, 4), ...code.store(RESULT_GPA, 4)]));
  return guest;
}

const plug = ({ memory, vm }: MicroGuest, shared: boolean): void => {
  memory.addRegion({ gpa: PLUGGED_GPA, sizeBytes: 64 * MIB, shared, thp: false });
  vm.mapMemory();
};

async function unplug({ memory, vm }: MicroGuest): Promise<void> {
  const removed = memory.removeRegion(PLUGGED_GPA);
  vm.mapMemory();
  await removed;
}

const mappings = (): number => readFileSync('/proc/self/maps', 'utf8').split('\n').length;

test.each([false, true])('a guest sees RAM come and go, shared: %s', async (shared) => {
  await using guest = await watching();
  await until(() => guest.peek(RESULT_GPA) === NOBODY);

  plug(guest, shared);
  guest.memory.write(PLUGGED_GPA, Uint8Array.of(1, 2, 3, 4));
  await until(() => guest.peek(RESULT_GPA) === 0x0403_0201);
  await unplug(guest);

  await until(() => guest.peek(RESULT_GPA) === NOBODY);
  expect(() => guest.memory.write(PLUGGED_GPA, Uint8Array.of(1))).toThrow('EFAULT');
});

test('what came back is new', async () => {
  await using guest = await watching();
  plug(guest, false);
  guest.memory.write(PLUGGED_GPA, Uint8Array.of(1));

  await unplug(guest);
  plug(guest, false);

  await until(() => guest.peek(RESULT_GPA) === 0);
});

test('RAM that came and went a hundred times leaves nothing', async () => {
  await using guest = await watching();
  const cycle = async (): Promise<void> => {
    plug(guest, true);
    await unplug(guest);
  };
  await cycle();
  const before = mappings();

  for (let i = 0; i < 100; i++) await cycle();

  expect(mappings()).toBeLessThan(before + 10);
});

const MAPPED_MIB = 64;
const region = (settings: { shared: boolean; gpa?: number }) => ({
  ...{ gpa: PLUGGED_GPA, sizeBytes: MAPPED_MIB * MIB, thp: false, ...settings },
});

/** MiB of the process that are there, of its own or shared. */
const residentMib = (): number => {
  const pages = Number(readFileSync('/proc/self/statm', 'utf8').split(' ')[1]);
  return (pages * 4096) / MIB;
};

test.each([false, true])("what is discarded is the host's again, shared: %s", async (shared) => {
  const memory = new native.GuestMemory();
  memory.addRegion({ ...region({ shared }), discardable: true });
  memory.write(PLUGGED_GPA, new Uint8Array(MAPPED_MIB * MIB).fill(1));
  const before = residentMib();

  // All but the first page and the last, from the middle of one to the middle of another.
  await memory.discard(Float64Array.of(PLUGGED_GPA + 100, MAPPED_MIB * MIB - 200));

  expect(before - residentMib()).toBeGreaterThan(MAPPED_MIB / 2);
  const bytes = [0, 4095, 4096, 32 * MIB, MAPPED_MIB * MIB - 4097, MAPPED_MIB * MIB - 4096];
  const read = bytes.map((at) => {
    const byte = new Uint8Array(1);
    memory.read(PLUGGED_GPA + at, byte);
    return byte[0];
  });
  expect(read).toEqual([1, 1, 0, 0, 0, 1]);
  await memory.close();
});

test("what is nobody's to discard stays, and what is no RAM", async () => {
  const memory = new native.GuestMemory();
  memory.addRegion(region({ shared: true }));
  memory.addRegion({ ...region({ shared: true, gpa: 0 }), discardable: true });
  memory.write(PLUGGED_GPA, Uint8Array.of(1));
  memory.write(4096, Uint8Array.of(1));
  const byte = new Uint8Array(1);

  for (const range of [
    [PLUGGED_GPA, 4096],
    [2 ** 52, 4096],
    [Number.MAX_SAFE_INTEGER, Number.MAX_SAFE_INTEGER],
    [4096, 0],
  ])
    await memory.discard(Float64Array.from(range));
  memory.read(4096, byte);
  expect(byte[0]).toBe(1);
  await memory.discard(Float64Array.of(0, 1e15));
  memory.read(4096, byte);
  expect(byte[0]).toBe(0);

  memory.read(PLUGGED_GPA, byte);
  expect(byte[0]).toBe(1);
  for (const bad of [-1, Number.NaN, 0.5])
    expect(() => memory.discard(Float64Array.of(bad, 1))).toThrow(TypeError);
  await memory.close();
});

test('what is no region cannot be removed, and what is stays', async () => {
  await using guest = await watching();
  plug(guest, false);

  expect(() => guest.memory.removeRegion(PLUGGED_GPA + 4096)).toThrow('ENOENT');
  guest.vm.mapMemory();

  await until(() => guest.peek(RESULT_GPA) === 0);
});
