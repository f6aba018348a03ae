/** Guest RAM that comes and goes while the guest runs. */
import { readFileSync } from 'node:fs';
import { expect, test } from 'vitest';
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

test('what is no region cannot be removed, and what is stays', async () => {
  await using guest = await watching();
  plug(guest, false);

  expect(() => guest.memory.removeRegion(PLUGGED_GPA + 4096)).toThrow('ENOENT');
  guest.vm.mapMemory();

  await until(() => guest.peek(RESULT_GPA) === 0);
});
