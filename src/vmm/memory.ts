/** Guest RAM: what backs it, and where it lies. */
import { closeSync, fstatSync, openSync, statSync } from 'node:fs';
import { VmmError } from '../errors.ts';
import type { GuestMemory } from '../native.ts';
import type { RegionOptions } from '../native-memory.ts';
import { makeUnnamedFile } from '../unnamed-file.ts';
import { pageBytes, type RamZone } from './config/memory.ts';
import type { GpaRange } from './layout.ts';

/**
 * Gives the guest RAM in `regions`; pages come when they are touched, or with `prefault` now.
 * @throws VmmError 'host' if the host has not got it, and then nothing has changed.
 */
export async function addRam(
  memory: GuestMemory,
  zone: RamZone,
  regions: readonly GpaRange[],
): Promise<void> {
  const total = regions.reduce((sum, { sizeBytes }) => sum + sizeBytes, 0);
  const options = backingOptions(zone);
  const backing = zone.file === undefined ? undefined : openBacking(zone, zone.file, total);
  const added: number[] = [];
  let fileOffset = 0;
  try {
    for (const region of regions) {
      memory.addRegion({ ...region, ...options, ...(backing && { ...backing, fileOffset }) });
      added.push(region.gpa);
      fileOffset += region.sizeBytes;
    }
    if (zone.prefault) for (const gpa of added) await memory.prefault(gpa);
  } catch (cause) {
    for (const gpa of added) await memory.removeRegion(gpa);
    throw notToBeHad(zone, total, cause);
  } finally {
    if (backing) closeSync(backing.fd);
  }
}

function backingOptions(zone: RamZone): Omit<RegionOptions, 'gpa' | 'sizeBytes'> {
  const { shared, thp, mergeable, reserve, hugepages, host_numa_node: hostNode } = zone;
  return {
    ...{ shared, thp, mergeable, reserve, discardable: true },
    hugePageBytes: hugepages ? pageBytes(zone) : 0,
    ...(hostNode !== undefined && { hostNode }),
  };
}

export const isDirectory = (path: string): boolean =>
  statSync(path, { throwIfNoEntry: false })?.isDirectory() ?? false;

/**
 * In a directory a file is made of which nobody else knows; a file is the RAM, or what a private
 * copy begins with.
 */
function openBacking(
  { at, shared }: RamZone,
  path: string,
  sizeBytes: number,
): Pick<RegionOptions, 'privateCopy' | 'discardable'> & { fd: number } {
  try {
    if (isDirectory(path)) return { fd: makeUnnamedFile(path, sizeBytes), discardable: true };
    const fd = openSync(path, shared ? 'r+' : 'r');
    const found = fstatSync(fd).size;
    // What a copy gave back would be there again.
    if (found >= sizeBytes) return { fd, privateCopy: !shared, discardable: shared };
    closeSync(fd);
    throw new Error(`It has ${found} bytes`);
  } catch (cause) {
    throw new VmmError(
      'invalid-config',
      `${at}.file is ${path}, which cannot be ${sizeBytes} bytes of RAM: ` +
        'name a file of that size, or a directory where one can be made',
      cause,
    );
  }
}

function notToBeHad(zone: RamZone, sizeBytes: number, cause: unknown): VmmError {
  const { at, hugepages, host_numa_node: node } = zone;
  const pages = hugepages ? ` in huge pages of ${pageBytes(zone)}` : '';
  const where = node === undefined ? '' : ` on its NUMA node ${node}`;
  return new VmmError(
    'host',
    `The host has no ${sizeBytes} bytes${pages}${where} for ${at}.size: give the VM less`,
    cause,
  );
}
