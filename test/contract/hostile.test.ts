/** A driver at its worst, for long. */
import { execFile } from 'node:child_process';
import { promisify } from 'node:util';
import { expect, test } from 'vitest';
import { MIB } from '../../src/bytes.ts';
import { SUBJECTS } from './support/subjects.ts';

const ROUNDS = 200;

/** What a script of support/ prints. */
async function run<T>(script: string, ...args: string[]): Promise<T> {
  const argv = [`test/contract/support/${script}`, ...args];
  const { stdout } = await promisify(execFile)('node_modules/.bin/tsx', argv);
  return JSON.parse(stdout) as T;
}

test.each(SUBJECTS)(
  '$name serves on after its driver did its worst many times, and does not grow by 1 MiB',
  async ({ name, rounds = ROUNDS }) => {
    const argv = ['test/contract/support/hostile.ts', name, `${rounds}`];

    const { stdout } = await promisify(execFile)('node_modules/.bin/tsx', argv);

    const { grown, answers } = JSON.parse(stdout) as { grown: number; answers: boolean };
    expect(answers).toBe(true);
    expect(grown).toBeLessThan(MIB);
  },
  60_000,
);

test.each(['Pty', 'Socket', 'File', 'Null'])(
  'a guest that prints without end on a %s that nobody reads costs no memory',
  async (mode) => {
    const { grown, taken } = await run<{ grown: number; taken: number }>('flood.ts', mode);

    expect(grown).toBeLessThan(MIB);
    // Who types at a guest that does not read waits, once buffers between them are full.
    expect(taken).toBeLessThan(MIB);
  },
  60_000,
);
