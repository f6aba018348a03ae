/** Guest RAM: what backs it, and where it lies. */
import { closeSync } from 'node:fs';
import { VmmError } from '../errors.ts';
import type { GuestMemory } from '../native.ts';
import { makeUnnamedFile } from '../unnamed-file.ts';
import { type MemoryConfig, pageBytes } from './config/memory.ts';
import type { GpaRange } from './layout.ts';

/**
 * Gives the guest RAM in `regions`; pages come when they are touched, or with `prefault` now.
 * @throws VmmError 'host' if the host has not got it, and then nothing has changed.
 */
export async function addRam(
  memory: GuestMemory,
  config: MemoryConfig,
  regions: readonly GpaRange[],
): Promise<void> {
  const { shared = false, thp, mergeable, reserve, hugepages } = config;
  const hugePageBytes = hugepages ? pageBytes(config) : 0;
  const total = regions.reduce((sum, { sizeBytes }) => sum + sizeBytes, 0);
  const fd = config.file === undefined ? -1 : openBacking(config.file, total);
  const added: number[] = [];
  let fileOffset = 0;
  try {
    for (const region of regions) {
      const options = { shared, thp, mergeable, reserve, hugePageBytes, discardable: true };
      memory.addRegion({ ...region, ...options, ...(fd >= 0 && { fd, fileOffset }) });
      added.push(region.gpa);
      fileOffset += region.sizeBytes;
    }
    if (config.prefault) await memory.prefault();
  } catch (cause) {
    for (const gpa of added) await memory.removeRegion(gpa);
    const pages = hugepages ? ` in huge pages of ${hugePageBytes}` : '';
    throw new VmmError(
      'host',
      `The host has no ${total} bytes${pages} for memory.size: give the VM less`,
      cause,
    );
  } finally {
    if (fd >= 0) closeSync(fd);
  }
}

function openBacking(directory: string, sizeBytes: number): number {
  try {
    return makeUnnamedFile(directory, sizeBytes);
  } catch (cause) {
    throw new VmmError(
      'invalid-config',
      `memory.file is ${directory}, where no file can be made: name a directory for one`,
      cause,
    );
  }
}
