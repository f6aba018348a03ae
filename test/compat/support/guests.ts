/** Kernels of a few instructions, each with one habit; 32-bit code after a PVH entry. */
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { elfKernel, notes, PT_NOTE, pvhNote } from '../../support/kernels.ts';
import * as code from '../../support/machine-code.ts';

const ENTRY_GPA = 0x10_0000;
const COM1 = 0x3f8;
const CMOS_INDEX = 0x70;
const CMOS_DATA = 0x71;
const I8042_COMMAND = 0x64;
const PULSE_RESET = 0xfe;
const SHUTDOWN = 0x600;

const CLI = [0xfa];

const movAl = (value: number): number[] => [0xb0, value];

const HABITS = {
  'a guest that prints X and halts': [
    ...movAl(0x58),
    ...code.out(COM1),
    ...CLI,
    ...code.forever(code.HLT),
  ],
  'a guest in a tight loop with interrupts off': [...CLI, ...code.forever([])],
  'a guest that halts at once, with interrupts off': [...CLI, ...code.HLT],
  'a guest in a storm of exits to the clock': code.forever([
    ...code.out(CMOS_INDEX),
    ...code.input(CMOS_DATA),
  ]),
  'a guest that powers off': [...movAl(0x34), ...code.out(SHUTDOWN), ...CLI, ...code.HLT],
  'a guest that resets itself at once, every time': [
    ...CLI,
    ...movAl(PULSE_RESET),
    ...code.forever(code.out(I8042_COMMAND)),
  ],
} as const;

export type Habit = keyof typeof HABITS;

export const QUIET: Habit = 'a guest that prints X and halts';

/** A `vmlinux` of the guest. */
export const kernelOf = (habit: Habit): Uint8Array =>
  elfKernel({
    segments: [
      { gpa: ENTRY_GPA, bytes: Uint8Array.from(HABITS[habit]), sizeBytes: 4096 },
      { type: PT_NOTE, gpa: 0, bytes: notes([pvhNote(ENTRY_GPA)]) },
    ],
  });

/** Writes the kernel to a file, and makes a config of it that boots. */
export function guestConfig(folder: string, habit: Habit = QUIET) {
  const kernel = join(folder, 'vmlinux');
  writeFileSync(kernel, kernelOf(habit));
  return {
    payload: { kernel },
    memory: { size: 64 << 20 },
    serial: { mode: 'File', file: join(folder, 'serial') },
    console: { mode: 'Off' },
  };
}
