/** What the host has, for checks of what a config asks of it. Read when asked for, not before. */
import { readFileSync } from 'node:fs';
import { KIB } from '../bytes.ts';

export interface HostFacts {
  /** RAM of the host. */
  memoryBytes(): number;
  /** Its CPUs that are online. */
  cpus(): ReadonlySet<number>;
}

export const systemHost: HostFacts = {
  // Not from node:os, which nothing else at start-up needs.
  memoryBytes: () => memTotal(readFileSync('/proc/meminfo', 'utf8')),
  cpus: () => parseCpuList(readFileSync('/sys/devices/system/cpu/online', 'utf8')),
};

/** In bytes. proc(5). */
export const memTotal = (meminfo: string): number =>
  Number(/^MemTotal:\s*(\d+) kB$/m.exec(meminfo)?.[1] ?? 0) * KIB;

/** The kernel's form, `0-3,8`; admin-guide/cputopology. */
export function parseCpuList(text: string): ReadonlySet<number> {
  const cpus = new Set<number>();
  for (const range of text.trim().split(',')) {
    const [first, last = first] = range.split('-').map(Number);
    for (let cpu = first ?? 0; cpu <= (last ?? 0); cpu++) cpus.add(cpu);
  }
  return cpus;
}
