import { spawnSync } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import { expect, test } from 'vitest';

const CHILD = fileURLToPath(new URL('../support/exiting-guest.ts', import.meta.url));

test.each(['timer', 'handler'])(
  'a process that exits from a %s while a guest runs ends with its own code',
  (where) => {
    const endings = Array.from({ length: 5 }, () => {
      const { status, signal } = spawnSync('npx', ['tsx', CHILD, where], { timeout: 10_000 });
      return status ?? signal;
    });

    expect(endings).toEqual([7, 7, 7, 7, 7]);
  },
);
