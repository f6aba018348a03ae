/** Keeps the console of a guest whose test failed, under `test-results/`. */
import { mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, onTestFailed } from 'vitest';

const DIRECTORY = 'test-results';
let count = 0;

/** Calls `keep` if the test that runs now fails. @returns false if none does: a bench, a hook. */
export function keepLogOfFailedTest(keep: () => void): boolean {
  try {
    onTestFailed(keep);
    return true;
  } catch {
    return false;
  }
}

/**
 * Writes a log and prints where, unless it was written before.
 *
 * @param path of the same log when it was written before.
 */
export function writeLog(text: string, path?: string): string {
  mkdirSync(DIRECTORY, { recursive: true });
  const file = path ?? join(DIRECTORY, `${testName()}-${process.pid}-${++count}.log`);
  writeFileSync(file, text);
  if (path === undefined) console.log(`[guest] The console is kept in ${file}`);
  return file;
}

function testName(): string {
  let name: string | undefined;
  try {
    name = expect.getState().currentTestName;
  } catch {
    // Not in a test.
  }
  const words = name?.replaceAll(/[^a-zA-Z0-9]+/g, '-').slice(0, 80);
  return `guest-${words || 'log'}`;
}
