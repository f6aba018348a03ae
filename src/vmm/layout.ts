/**
 * Every fixed guest address, port and GSI.
 *
 * ```
 * 0x0000_0000 ┌ RAM ──────────────────────────────────────────────────────────────────
 *       0x040e│ EBDA pointer, a word of the BIOS data area: where the RSDP is looked for
 *       0x0500│ boot GDT, 0x0520 boot IDT
 *       0x6000│ PVH start info, 0x6040 its module list
 *       0x7000│ zero page (bzImage) or PVH memory map
 *       0x8000│ boot stack, from 0x8ff0 down
 *       0x9000│ page tables: PML5, PML4, PDPT, PD
 *    0x02_0000│ command line, at most 64 KiB
 *    0x0a_0000├ reserved: RSDP and the other ACPI tables
 *    0x0f_0000│ reserved: SMBIOS
 *    0x10_0000├ RAM: the kernel, and the initramfs at its end
 * 0xc000_0000├ hole: BARs of 32 bits, from the top down
 * 0xe800_0000├ PCI configuration (ECAM), 1 MiB a segment
 * 0xf800_0000│ KVM's own pages: three of the TSS, one of the identity map
 * 0xfec0_0000│ IOAPIC
 * 0xfee0_0000│ local APICs and MSI
 * 4 GiB       ├ RAM above the hole
 *             ├ RAM that can be plugged, from the next 128 MiB on
 *             ├ persistent memory, from the bottom up; BARs of 64 bits, from the top down
 * 2^bits−1088K├ registers of platform devices, 1 MiB
 * 2^bits−64K  └ unused; `bits` is the physical address width of the guest's CPUs
 * ```
 */
import { strict as assert } from 'node:assert';
import { alignDown, alignUp, GIB, hex, KIB, MIB } from '../bytes.ts';
import { VmmError } from '../errors.ts';

/** A range of guest physical addresses. */
export interface GpaRange {
  gpa: number;
  sizeBytes: number;
}

/** A range of I/O ports. */
export interface PortRange {
  base: number;
  count: number;
}

const range = (gpa: number, sizeBytes: number): GpaRange => ({ gpa, sizeBytes });
const ports = (base: number, count: number): PortRange => ({ base, count });

export const MEMORY = {
  ebdaPointer: range(0x40e, 2),
  gdt: range(0x500, 0x20),
  idt: range(0x520, 8),
  startInfo: range(0x6000, 0x40),
  moduleList: range(0x6040, 0x20),
  zeroPage: range(0x7000, 4 * KIB),
  stack: range(0x8000, 4 * KIB),
  pml5: range(0x9000, 4 * KIB),
  pml4: range(0xa000, 4 * KIB),
  pdpt: range(0xb000, 4 * KIB),
  pd: range(0xc000, 4 * KIB),
  cmdline: range(0x2_0000, 64 * KIB),
  acpi: range(0xa_0000, 320 * KIB),
  smbios: range(0xf_0000, 64 * KIB),
  lowRam: range(0x10_0000, 0xc000_0000 - 0x10_0000),
  pci32: range(0xc000_0000, 0xe800_0000 - 0xc000_0000),
  ecam: range(0xe800_0000, 256 * MIB),
  kvmTss: range(0xf800_0000, 12 * KIB),
  kvmIdentityMap: range(0xf800_3000, 4 * KIB),
  ioapic: range(0xfec0_0000, 0x20),
  lapic: range(0xfee0_0000, MIB),
} as const;

/** A segment has one bus. */
const ECAM_SEGMENT_BYTES = MIB;

/** The part of `MEMORY.ecam` of a segment, of which there are 96 at most. */
export const segmentEcam = (segment: number): GpaRange =>
  range(MEMORY.ecam.gpa + segment * ECAM_SEGMENT_BYTES, ECAM_SEGMENT_BYTES);

/** The stack grows down from here; the bytes above it are left for what a callee may peek at. */
export const BOOT_STACK_TOP = 0x8ff0;

/** What the boot structures and the firmware tables take: the least RAM there can be. */
export const BOOT_AREA_BYTES = MIB;

export const PORTS = {
  i8042: ports(0x61, 4),
  cmos: ports(0x70, 2),
  post: ports(0x80, 1),
  debugConsole: ports(0xe9, 1),
  serial: ports(0x3f8, 8),
  firmwareDebug: ports(0x402, 1),
  shutdown: ports(0x600, 4),
  pmTimer: ports(0x608, 4),
  pci: ports(0xcf8, 8),
} as const;

export const GSI = { serial: 4, ged: 13 } as const;

/** Of the interrupt line of a PCI slot: the pins of the IOAPIC that no other device has. */
export const lineGsi = (slot: number): number => 16 + (slot % 8);

const HOLE = MEMORY.pci32.gpa;
const ABOVE_HOLE = 4 * GIB;

/** Where RAM of this size lies. `ramBytes`: a multiple of 4 KiB, at least `BOOT_AREA_BYTES`. */
export function ramRegions(ramBytes: number): GpaRange[] {
  const below = range(0, Math.min(ramBytes, HOLE));
  return ramBytes <= HOLE ? [below] : [below, range(ABOVE_HOLE, ramBytes - HOLE)];
}

/** Where parts of RAM lie that follow each other: in one piece, or in two if the hole is within. */
export function zoneRegions(sizes: readonly number[]): GpaRange[][] {
  const regions = ramRegions(sizes.reduce((sum, size) => sum + size, 0));
  return sizes.map((size) => {
    const pieces: GpaRange[] = [];
    for (let left = size; left > 0; ) {
      const region = regions[0];
      assert(region);
      const piece = range(region.gpa, Math.min(left, region.sizeBytes));
      pieces.push(piece);
      left -= piece.sizeBytes;
      region.gpa += piece.sizeBytes;
      region.sizeBytes -= piece.sizeBytes;
      if (region.sizeBytes === 0) regions.shift();
    }
    return pieces;
  });
}

export const E820_RAM = 1;
export const E820_RESERVED = 2;
export interface E820Entry extends GpaRange {
  type: typeof E820_RAM | typeof E820_RESERVED;
}

/** The memory map that a kernel is handed: zero page or PVH, the types are the same numbers. */
export function e820(ramBytes: number): E820Entry[] {
  const { acpi, smbios, lowRam, ecam } = MEMORY;
  const [below, ...above] = ramRegions(ramBytes);
  const ram = [
    range(0, acpi.gpa),
    range(lowRam.gpa, (below?.sizeBytes ?? 0) - lowRam.gpa),
    ...above,
  ].filter(({ sizeBytes }) => sizeBytes > 0);
  const reserved = [range(acpi.gpa, acpi.sizeBytes + smbios.sizeBytes), ecam];
  return [
    ...ram.map((entry) => ({ ...entry, type: E820_RAM }) as const),
    ...reserved.map((entry) => ({ ...entry, type: E820_RESERVED }) as const),
  ];
}

/**
 * Cuts a window in proportion to `weights`, at multiples of `stepBytes` from its start; the last
 * part ends where it does. Parts may be empty.
 */
export function cutByWeight(
  { gpa, sizeBytes }: GpaRange,
  weights: readonly number[],
  stepBytes: number,
): GpaRange[] {
  const total = weights.reduce((sum, weight) => sum + weight, 0);
  let before = 0;
  let start = gpa;
  return weights.map((weight) => {
    before += weight;
    const share = before === total ? sizeBytes : alignDown(sizeBytes * (before / total), stepBytes);
    const part = range(start, gpa + share - start);
    start = gpa + share;
    return part;
  });
}

/** Linux plugs memory by sections of so much. */
export const MEMORY_SECTION_BYTES = 128 * MIB;

export interface DeviceArea {
  /** Where RAM can be plugged, in whole sections, by zone; maybe none. */
  pluggable: GpaRange[];
  /** For BARs of 64 bits, and files mapped beside them. */
  pci64: GpaRange;
  /** The register of the generic event device. */
  ged: GpaRange;
  /** Registers through which the guest plugs and unplugs. */
  cpuHotplug: GpaRange;
  memoryHotplug: GpaRange;
  pciHotplug: GpaRange;
}

const PLATFORM_BYTES = MIB;
const TOP_UNUSED_BYTES = 64 * KIB;

/** How much can be plugged, and from which multiples on. */
export interface Pluggable {
  sizeBytes: number;
  alignBytes: number;
}

/**
 * What lies above RAM, which follows from how many address bits the guest's CPUs have.
 * @throws VmmError 'invalid-config' if RAM leaves no room for it.
 */
export function deviceArea(
  physBits: number,
  ramBytes: number,
  plugs: readonly Pluggable[] = [],
): DeviceArea {
  const platform = 2 ** physBits - TOP_UNUSED_BYTES - PLATFORM_BYTES;
  let start = Math.max(ABOVE_HOLE, ABOVE_HOLE + ramBytes - HOLE);
  const pluggable = plugs.map(({ sizeBytes, alignBytes }) => {
    const gpa = alignUp(start, Math.max(MEMORY_SECTION_BYTES, alignBytes));
    const room = range(gpa, alignDown(sizeBytes, MEMORY_SECTION_BYTES));
    if (room.sizeBytes > 0) start = gpa + room.sizeBytes;
    return room;
  });
  if (start >= platform) throw noRoom(physBits, ramBytes, plugs);
  return {
    pluggable,
    pci64: range(start, platform - start),
    ged: range(platform, 1),
    cpuHotplug: range(platform + 0x10, 0xc),
    memoryHotplug: range(platform + 0x20, 0x18),
    pciHotplug: range(platform + 0x40, 0x10),
  };
}

function noRoom(physBits: number, ramBytes: number, plugs: readonly Pluggable[]): VmmError {
  const plugBytes = plugs.reduce((sum, { sizeBytes }) => sum + sizeBytes, 0);
  return new VmmError(
    'invalid-config',
    `Memory of ${ramBytes} bytes${plugBytes > 0 ? `, and ${plugBytes} to be plugged,` : ''} ` +
      `leaves no room for devices below ${hex(2 ** physBits)}, ` +
      `which ${physBits} physical address bits reach: give the VM less memory`,
  );
}

/** Entries in the order of their addresses, none reaching into the next. */
function assertDisjoint(map: Record<string, { start: number; size: number }>): void {
  let end = 0;
  for (const [name, { start, size }] of Object.entries(map)) {
    assert(size > 0 && start >= end, `${name} at ${hex(start)} overlaps what lies below it`);
    end = start + size;
  }
}

assertDisjoint(
  Object.fromEntries(
    Object.entries(MEMORY).map(([name, r]) => [name, { start: r.gpa, size: r.sizeBytes }]),
  ),
);
assertDisjoint(
  Object.fromEntries(
    Object.entries(PORTS).map(([name, r]) => [name, { start: r.base, size: r.count }]),
  ),
);
