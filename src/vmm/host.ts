/** What the host has, for checks of what a config asks of it. Read when asked for, not before. */
import { existsSync, readFileSync } from 'node:fs';
import { KIB } from '../bytes.ts';

export interface HostFacts {
  /** RAM of the host. */
  memoryBytes(): number;
  /** Its CPUs that are online. */
  cpus(): ReadonlySet<number>;
  /** Its NUMA nodes that are online; none if its kernel knows nothing of them. */
  numaNodes(): ReadonlySet<number>;
}

const NODES = '/sys/devices/system/node';

export const systemHost: HostFacts = {
  // Not from node:os, which nothing else at start-up needs.
  memoryBytes: () => memTotal(readFileSync('/proc/meminfo', 'utf8')),
  cpus: () => parseCpuList(readFileSync('/sys/devices/system/cpu/online', 'utf8')),
  numaNodes: () =>
    existsSync(NODES) ? parseCpuList(readFileSync(`${NODES}/online`, 'utf8')) : new Set(),
};

/** In bytes. proc(5). */
export const memTotal = (meminfo: string): number =>
  Number(/^MemTotal:\s*(\d+) kB$/m.exec(meminfo)?.[1] ?? 0) * KIB;

/** A list of CPUs or nodes in the kernel's form, `0-3,8`; admin-guide/cputopology. */
export function parseCpuList(text: string): ReadonlySet<number> {
  const cpus = new Set<number>();
  for (const range of text.trim().split(',')) {
    const [first, last = first] = range.split('-').map(Number);
    for (let cpu = first ?? 0; cpu <= (last ?? 0); cpu++) cpus.add(cpu);
  }
  return cpus;
}
