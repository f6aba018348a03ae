/** Guest RAM: how much, what backs it, and how it may grow. */
import type { Static } from '@sinclair/typebox';
import { MIB } from '../../bytes.ts';
import { VmmError } from '../../errors.ts';
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

/** The zone of RAM that is not cut into zones. */
const WHOLE = 'mem0';

/** A part of RAM that is backed in one way; it may grow by virtio-mem. */
export type RamZone = MemoryZoneConfig &
  Pick<MemoryConfig, 'hotplug_method' | 'thp'> & {
    /** How the config calls it: `memory`, or `memory.zones[0]`. */
    at: string;
  };

/** All of RAM, in the order of its addresses: the zones of the config, or the one that it is. */
export function ramZones(memory: MemoryConfig): RamZone[] {
  const { zones = [], hotplug_method, thp, ...whole } = memory;
  if (zones.length > 0)
    return zones.map((zone, i) => ({ ...zone, hotplug_method, thp, at: `memory.zones[${i}]` }));
  // A file is shared by itself.
  const shared = whole.shared || whole.file !== undefined;
  return [{ ...whole, id: WHOLE, shared, hotplug_method, thp, at: 'memory' }];
}

/** All RAM that a boot gives the guest. */
export const ramBytes = (memory: MemoryConfig): number =>
  ramZones(memory).reduce((sum, { size }) => sum + size, 0);

const PAGE_BYTES = 4096;
export const HUGE_PAGE_BYTES = 2 * MIB;

/** The least that virtio-mem plugs at once. */
const BLOCK_BYTES = 2 * MIB;

/** Whether it grows by virtio-mem. */
export const hasBlocks = ({
  hotplug_method,
  hotplug_size = 0,
}: Pick<RamZone, 'hotplug_method' | 'hotplug_size'>): boolean =>
  hotplug_method === 'VirtioMem' && hotplug_size > 0;

/** What virtio-mem plugs at once. */
export const blockBytes = (pages: Pages): number => Math.max(BLOCK_BYTES, pageBytes(pages));

/**
 * The config of so much RAM in all: what is plugged by the block stands for itself.
 * @throws VmmError 'invalid-config' if it is cut into zones.
 */
export function resizedRam(memory: MemoryConfig, sizeBytes: number): MemoryConfig {
  if (memory.zones?.length)
    throw refused(
      'Impossible to resize guest memory if it is backed by user defined memory regions',
      `desired_ram is ${sizeBytes} and the VM has memory.zones: use vm.resize-zone`,
    );
  return { ...memory, ...resized(memory, sizeBytes) };
}

/**
 * The same of one zone.
 * @throws VmmError 'not-found' if there is none of that id.
 */
export function resizedZone(memory: MemoryConfig, id: string, sizeBytes: number): MemoryConfig {
  const { zones = [], hotplug_method } = memory;
  if (!zones.some((zone) => zone.id === id)) {
    const known = zones.length > 0 ? zones.map((zone) => zone.id).join(', ') : 'none';
    const remedy = new Error(`id is ${id}: name one of memory.zones, which are ${known}`);
    throw new VmmError('not-found', 'Failed resizing a memory zone', remedy);
  }
  const change = (zone: MemoryZoneConfig): MemoryZoneConfig =>
    zone.id === id ? { ...zone, ...resized({ ...zone, hotplug_method }, sizeBytes) } : zone;
  return { ...memory, zones: zones.map(change) };
}

const resized = (
  zone: Pick<RamZone, 'size' | 'hotplug_method' | 'hotplug_size'>,
  sizeBytes: number,
): Pick<RamZone, 'size' | 'hotplugged_size'> =>
  hasBlocks(zone) && sizeBytes >= zone.size
    ? { size: zone.size, hotplugged_size: sizeBytes - zone.size }
    : { size: sizeBytes };

type Pages = { hugepages: boolean; hugepage_size?: number };

/** Of the pages that back it. */
export const pageBytes = ({ hugepages, hugepage_size = HUGE_PAGE_BYTES }: Pages): number =>
  hugepages ? hugepage_size : PAGE_BYTES;

/** In the words that clients know. */
export const refused = (text: string, remedy: string): VmmError =>
  new VmmError(
    'invalid-config',
    'Memory manager error',
    new Error(text, { cause: new Error(remedy) }),
  );
