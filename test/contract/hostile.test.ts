/** A driver at its worst, for long. */
import { execFile } from 'node:child_process';
import { promisify } from 'node:util';
import { expect, test } from 'vitest';
import { MIB } from '../../src/bytes.ts';
import { SUBJECTS } from './support/subjects.ts';

const ROUNDS = '200';

test.each(SUBJECTS)(
  '$name serves on after thousands of rounds, and does not grow by 1 MiB in a thousand',
  async ({ name }) => {
    const argv = ['test/contract/support/hostile.ts', name, ROUNDS];

    const { stdout } = await promisify(execFile)('node_modules/.bin/tsx', argv);

    const { grown, answers } = JSON.parse(stdout) as { grown: number; answers: boolean };
    expect(answers).toBe(true);
    expect(grown).toBeLessThan(MIB);
  },
  60_000,
);
