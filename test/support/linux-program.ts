/** Builds programs for a Linux guest, static so that it needs nothing else of them. */
import { execFileSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { existsSync, mkdirSync, readFileSync, renameSync } from 'node:fs';
import { basename, join, resolve } from 'node:path';

const OUTPUT = resolve('build/guests');
const FLAGS = ['-std=gnu17', '-O2', '-Wall', '-Wextra', '-Werror', '-static', '-pthread'];

/** The path of `source`, one C file, as a program; made once for what is in it. */
export function linuxProgram(source: string): string {
  const hash = createHash('sha256').update(FLAGS.join()).update(readFileSync(source));
  const name = `${basename(source, '.c')}-${hash.digest('hex').slice(0, 16)}`;
  const path = join(OUTPUT, name);
  if (existsSync(path)) return path;
  mkdirSync(OUTPUT, { recursive: true });
  const part = `${path}.${process.pid}`; // another test may want the same
  execFileSync('gcc', [...FLAGS, source, '-o', part]);
  renameSync(part, path);
  return path;
}
