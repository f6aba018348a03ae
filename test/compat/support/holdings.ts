/** What a process holds: a leak shows in one of these, sooner or later. */
import { readdirSync, readFileSync, readlinkSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';

export interface Holdings {
  fds: number;
  threads: number;
  /** Parts of files that are mapped. */
  files: number;
  privateKib: number;
}

/** Garbage is collected a second after the last device has gone. */
const SETTLED_MS = 2500;

export function holdings(pid: number): Holdings {
  const proc = `/proc/${pid}`;
  const maps = readFileSync(`${proc}/maps`, 'utf8').trim().split('\n');
  const rollup = readFileSync(`${proc}/smaps_rollup`, 'utf8');
  return {
    fds: readdirSync(`${proc}/fd`).length,
    threads: readdirSync(`${proc}/task`).length,
    files: maps.filter((line) => line.includes('/')).length,
    privateKib: Number(/Private_Dirty:\s+(\d+)/.exec(rollup)?.[1]),
  };
}

/** What its descriptors lead to. One that is closed while we look is left out. */
export function openPaths(pid: number): string[] {
  const fds = `/proc/${pid}/fd`;
  return readdirSync(fds).flatMap((fd) => {
    try {
      return [readlinkSync(`${fds}/${fd}`)];
    } catch {
      return [];
    }
  });
}

/** What it holds when it has collected its garbage. */
export async function settledHoldings(pid: number): Promise<Holdings> {
  await sleep(SETTLED_MS);
  return holdings(pid);
}

/**
 * The least of each: what is being closed is still there, and V8 has some MiB more or less of room
 * for young objects, as the moment wants it. What has leaked is in all of them.
 */
export const leastOf = (all: readonly Holdings[]): Holdings => {
  const least = (of: (held: Holdings) => number): number => Math.min(...all.map(of));
  return {
    fds: least(({ fds }) => fds),
    threads: least(({ threads }) => threads),
    files: least(({ files }) => files),
    privateKib: least(({ privateKib }) => privateKib),
  };
};

/** All but the memory, which is never the same twice. */
export const countsOf = ({ fds, threads, files }: Holdings) => ({ fds, threads, files });
