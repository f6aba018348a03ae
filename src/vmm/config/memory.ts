/** Guest RAM: how much, what backs it, and how it may grow. */
import type { Static } from '@sinclair/typebox';
import { MIB } from '../../bytes.ts';
import { bool, choice, list, object, option, seedKey, size, text, uint } from '../../schema.ts';

const DEFAULT_BYTES = 512 * MIB;

const MemoryZoneConfig = object({
  id: text(),
  size: size(),
  file: option(text()),
  shared: bool(false),
  hugepages: bool(false),
  hugepage_size: option(size()),
  host_numa_node: option(uint(32)),
  hotplug_size: option(size()),
  hotplugged_size: option(size()),
  prefault: bool(false),
  reserve: bool(false),
  mergeable: bool(false),
});
export type MemoryZoneConfig = Static<typeof MemoryZoneConfig>;

export const MemoryConfig = object(
  {
    size: size({ cli: { default: DEFAULT_BYTES } }),
    file: option(text(seedKey)),
    mergeable: bool(false),
    hotplug_method: choice(['Acpi', 'VirtioMem'], { default: 'Acpi' }),
    hotplug_size: option(size()),
    hotplugged_size: option(size()),
    /** As its devices need it, where it isn't given: see shared-ram.ts. */
    shared: option(bool()),
    hugepages: bool(false),
    hugepage_size: option(size()),
    prefault: bool(false),
    reserve: bool(false),
    zones: option(list(MemoryZoneConfig, { cli: { hidden: true } })),
    thp: bool(true),
  },
  { default: { size: DEFAULT_BYTES } },
);
export type MemoryConfig = Static<typeof MemoryConfig>;

/** All RAM that a boot gives the guest. */
export const ramBytes = (memory: MemoryConfig): number =>
  (memory.zones ?? []).reduce((sum, zone) => sum + zone.size, memory.size);

const PAGE_BYTES = 4096;
const HUGE_PAGE_BYTES = 2 * MIB;

/** The least that virtio-mem plugs at once. */
const BLOCK_BYTES = 2 * MIB;

/** Whether RAM grows by virtio-mem. */
export const hasBlocks = ({ hotplug_method, hotplug_size = 0 }: MemoryConfig): boolean =>
  hotplug_method === 'VirtioMem' && hotplug_size > 0;

/** What virtio-mem plugs at once. */
export const blockBytes = (memory: MemoryConfig): number =>
  Math.max(BLOCK_BYTES, pageBytes(memory));

/** The config of so much RAM in all: what is plugged by the block stands for itself. */
export const resizedRam = (memory: MemoryConfig, sizeBytes: number): MemoryConfig =>
  hasBlocks(memory) && sizeBytes >= memory.size
    ? { ...memory, hotplugged_size: sizeBytes - memory.size }
    : { ...memory, size: sizeBytes };

/** Of the pages that back it. */
export const pageBytes = ({ hugepages, hugepage_size = HUGE_PAGE_BYTES }: MemoryConfig): number =>
  hugepages ? hugepage_size : PAGE_BYTES;
