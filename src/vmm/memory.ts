/** Guest RAM: what backs it, and where it lies. */
import { closeSync } from 'node:fs';
import { MIB } from '../bytes.ts';
import { VmmError } from '../errors.ts';
import type { GuestMemory } from '../native.ts';
import { makeUnnamedFile } from '../unnamed-file.ts';
import { type MemoryConfig, ramBytes } from './config/memory.ts';
import { ramRegions } from './layout.ts';

const HUGE_PAGE_BYTES = 2 * MIB;

/**
 * Gives the guest its RAM; pages come when they are touched, or with `prefault` now.
 * @throws VmmError 'host' if the host has not got it.
 */
export async function addRam(memory: GuestMemory, config: MemoryConfig): Promise<void> {
  const { shared = false, thp, mergeable, reserve, hugepages } = config;
  const hugePageBytes = hugepages ? (config.hugepage_size ?? HUGE_PAGE_BYTES) : 0;
  const fd = config.file === undefined ? -1 : openBacking(config.file, ramBytes(config));
  let fileOffset = 0;
  try {
    for (const region of ramRegions(ramBytes(config))) {
      const options = { shared, thp, mergeable, reserve, hugePageBytes, discardable: true };
      memory.addRegion({ ...region, ...options, ...(fd >= 0 && { fd, fileOffset }) });
      fileOffset += region.sizeBytes;
    }
    if (config.prefault) await memory.prefault();
  } catch (cause) {
    const pages = hugepages ? ` in huge pages of ${hugePageBytes}` : '';
    throw new VmmError(
      'host',
      `The host has no ${ramBytes(config)} bytes${pages} for memory.size: give the VM less`,
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
