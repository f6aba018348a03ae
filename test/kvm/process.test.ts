import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { fileURLToPath } from 'node:url';
import { expect, test } from 'vitest';

const CHILD = fileURLToPath(new URL('../support/exiting-guest.ts', import.meta.url));

/** The exit code of the child, or the signal that ended it. */
async function ending(where: string): Promise<unknown> {
  const child = spawn(process.execPath, ['--import', 'tsx', CHILD, where], { timeout: 10_000 });
  const [code, signal] = await once(child, 'exit');
  return code ?? signal;
}

test.each(['timer', 'handler'])(
  'a process that exits from a %s while a guest runs ends with its own code',
  async (where) => {
    const endings = await Promise.all(Array.from({ length: 4 }, () => ending(where)));

    expect(endings).toEqual([7, 7, 7, 7]);
  },
);
