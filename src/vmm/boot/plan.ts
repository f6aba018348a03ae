/** A boot as data: what lies where in RAM, and the state in which the boot vCPU starts. Pure. */
import { strict as assert } from 'node:assert';
import { alignDown, alignUp, hex, KIB, MIB } from '../../bytes.ts';
import { VmmError } from '../../errors.ts';
import type { Blob, BootPlan, CpuidEntry } from '../../native-boot.ts';
import { BOOT_AREA_BYTES, e820, type GpaRange, MEMORY, ramRegions } from '../layout.ts';
import { zeroPage } from './bzimage.ts';
import type { Handover, ImageFile, Kernel } from './image.ts';
import { startInfo } from './pvh.ts';
import { BOOT_MSRS, entryState, entryTables } from './registers.ts';

const PAGE_BYTES = 4 * KIB;
const LOW_RAM_END_MAX = MEMORY.lowRam.gpa + MEMORY.lowRam.sizeBytes;

export interface BootOptions {
  kernel: Kernel;
  initramfs: ImageFile | undefined;
  cmdline: string;
  /** A multiple of 4 KiB. */
  ramBytes: number;
  /** Firmware tables, below 1 MiB. */
  tables: Blob[];
  rsdpGpa: number;
  /** One list a vCPU. */
  cpuid: CpuidEntry[][];
}

/**
 * The files stay borrowed: they must be open until the plan has been carried out, in RAM that is
 * zero.
 *
 * @throws VmmError 'invalid-config' if the command line or RAM does not suit the files.
 */
export function planBoot(options: BootOptions): BootPlan {
  const { kernel, initramfs, ramBytes, rsdpGpa, cpuid } = options;
  if (ramBytes < BOOT_AREA_BYTES)
    throw new VmmError(
      'invalid-config',
      `Memory of ${ramBytes} bytes is too small to boot in: give the VM 1 MiB or more`,
    );
  const cmdline = cmdlineBytes(options.cmdline, kernel);
  const lowRamEnd = ramRegions(ramBytes)[0]?.sizeBytes ?? 0;
  const kernelEnd = endWithin(kernel, lowRamEnd);
  const initramfsAt = initramfs && placeInitramfs(initramfs, kernel, kernelEnd, lowRamEnd);
  const { protocol, extents, file } = kernel;
  const handover: Handover = {
    cmdlineGpa: MEMORY.cmdline.gpa,
    initramfs: initramfsAt,
    rsdpGpa,
    memoryMap: e820(ramBytes),
  };
  const blobs = [
    ...entryTables(protocol),
    ...(protocol.name === 'pvh' ? startInfo(handover) : zeroPage(protocol.setupHeader, handover)),
    { gpa: MEMORY.cmdline.gpa, bytes: cmdline },
    ...options.tables,
    ...extents
      .filter(({ fileSizeBytes }) => fileSizeBytes > 0)
      .map(({ gpa, fileOffset, fileSizeBytes }) => part(file, gpa, fileOffset, fileSizeBytes)),
    ...(initramfs && initramfsAt ? [part(initramfs, initramfsAt.gpa, 0, initramfs.sizeBytes)] : []),
  ];
  assertPlaced(blobs, ramRegions(ramBytes));
  return { blobs, cpuid, msrs: BOOT_MSRS, entry: entryState(kernel) };
}

const part = ({ fd }: ImageFile, gpa: number, offset: number, length: number): Blob => ({
  gpa,
  fd,
  offset,
  length,
});

/** Text outside ASCII goes to the kernel as UTF-8. */
function cmdlineBytes(cmdline: string, { file, cmdlineBytesMax }: Kernel): Uint8Array {
  const bytes = Buffer.from(`${cmdline}\0`);
  if (bytes.indexOf(0) < bytes.length - 1)
    throw new VmmError('invalid-config', `Command line has a zero byte at ${bytes.indexOf(0)}`);
  if (bytes.length - 1 > cmdlineBytesMax)
    throw new VmmError(
      'invalid-config',
      `Command line of ${bytes.length - 1} bytes is longer than the ${cmdlineBytesMax} ` +
        `that kernel ${file.path} takes: shorten it`,
    );
  return bytes;
}

/** Where the kernel ends. */
function endWithin({ file, extents }: Kernel, lowRamEnd: number): number {
  const end = Math.max(...extents.map(({ gpa, sizeBytes }) => gpa + sizeBytes));
  if (end <= lowRamEnd) return end;
  throw file.refusal(
    `needs RAM up to ${hex(end)}, and there is none from ${hex(lowRamEnd)}: ` +
      remedy(end, LOW_RAM_END_MAX),
  );
}

/** At the end of RAM below the hole, in whole pages: as far from the kernel as can be. */
function placeInitramfs(
  initramfs: ImageFile,
  { initramfsGpaMax }: Kernel,
  kernelEnd: number,
  lowRamEnd: number,
): GpaRange {
  const { sizeBytes } = initramfs;
  const end = Math.min(lowRamEnd, initramfsGpaMax + 1);
  const gpa = alignDown(end - sizeBytes, PAGE_BYTES);
  if (gpa >= kernelEnd) return { gpa, sizeBytes };
  const needed = alignUp(kernelEnd, PAGE_BYTES) + alignUp(sizeBytes, PAGE_BYTES);
  throw initramfs.refusal(
    `has ${sizeBytes} bytes, which do not fit between the kernel's end at ${hex(kernelEnd)} and ` +
      `${hex(end)}: ${remedy(needed, Math.min(initramfsGpaMax + 1, LOW_RAM_END_MAX))}`,
  );
}

const remedy = (needed: number, most: number): string =>
  needed > most
    ? `it would have to end by ${hex(most)}`
    : `give the VM ${Math.ceil(needed / MIB)} MiB of memory or more`;

/** That all this adds up, whatever the files hold: every blob in RAM, no two overlapping. */
function assertPlaced(blobs: readonly Blob[], ram: readonly GpaRange[]): void {
  const ranges = blobs
    .map((blob) => ({
      gpa: blob.gpa,
      end: blob.gpa + ('fd' in blob ? blob.length : blob.bytes.length),
    }))
    .sort((a, b) => a.gpa - b.gpa);
  for (const [i, { gpa, end }] of ranges.entries()) {
    const within = ram.some((region) => gpa >= region.gpa && end <= region.gpa + region.sizeBytes);
    assert(within, `${hex(gpa)}–${hex(end)} is not RAM`);
    assert((ranges[i - 1]?.end ?? 0) <= gpa, `Two things lie at ${hex(gpa)}`);
  }
}
