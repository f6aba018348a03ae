/**
 * Runs probe.c: starts a program and times what it does from outside, in C for its small own cost.
 */
import { execFileSync } from 'node:child_process';
import { join } from 'node:path';

export type Probe = (...args: string[]) => number[];

/** Compiles it into `directory`, for any Linux. @returns its path. */
export function compileProbe(directory: string): string {
  const probe = join(directory, 'probe');
  const flags = ['-D_GNU_SOURCE', '-std=c11', '-O2', '-Wall', '-Wextra', '-static'];
  execFileSync('gcc', [...flags, '-o', probe, join(import.meta.dirname, 'probe.c')]);
  return probe;
}

/** @returns a function that runs it: milliseconds, as it prints them. */
export function buildProbe(directory: string): Probe {
  const probe = compileProbe(directory);
  return (...args) =>
    execFileSync(probe, args, { encoding: 'utf8' })
      .trim()
      .split(' ')
      .map((ns) => Number(ns) / 1e6);
}
