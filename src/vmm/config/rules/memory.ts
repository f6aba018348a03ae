/** What guest RAM must be. */
import { MIB } from '../../../bytes.ts';
import {
  blockBytes,
  HUGE_PAGE_BYTES,
  hasBlocks,
  pageBytes,
  type RamZone,
  ramBytes,
  ramZones,
} from '../memory.ts';
import { type Fault, isPowerOfTwo, type Rule } from './rule.ts';

/** The first MiB is firmware's and tables'; a kernel starts above it. */
const RAM_BYTES_MIN = 2 * MIB;

type ZoneRule = (zone: RamZone) => Fault | undefined;

const ofEveryZone =
  (rule: ZoneRule): Rule =>
  ({ memory }) => {
    for (const zone of ramZones(memory)) {
      const fault = rule(zone);
      if (fault) return fault;
    }
    return undefined;
  };

const sizeOrZones: Rule = ({ memory: { size, zones = [] } }) => {
  if (size === 0 && zones.length === 0)
    return { text: 'No memory zones found', remedy: 'memory.size is 0: give the guest some RAM' };
  if (size === 0 || zones.length === 0) return undefined;
  return {
    text: 'Memory configuration is not valid',
    remedy: `memory.size is ${size} and memory.zones is given: set the size to 0 or drop the zones`,
  };
};

const aligned: ZoneRule = (zone) => {
  const { at, size } = zone;
  const page = pageBytes(zone);
  if (page === 0 || size % page === 0) return undefined;
  return {
    text: 'Memory size is misaligned with default page size or its hugepage size',
    remedy: `${at}.size is ${size}: give a multiple of ${page}`,
  };
};

const largeEnough: Rule = ({ memory }) =>
  ramBytes(memory) >= RAM_BYTES_MIN
    ? undefined
    : {
        text: 'Too little memory to boot anything',
        remedy: `memory.size is ${ramBytes(memory)}: give at least ${RAM_BYTES_MIN} (2 MiB)`,
      };

const withinHost: Rule = ({ memory }, host) =>
  ramBytes(memory) <= host.memoryBytes()
    ? undefined
    : {
        text: 'More memory than the host has',
        remedy: `memory.size is ${ramBytes(memory)}: give at most ${host.memoryBytes()}`,
      };

/** A file of 2020 is shared by itself, and may be both. */
const sharedOrMergeable: Rule = ({ memory }) => {
  const parts = [memory, ...(memory.zones ?? [])];
  const i = parts.findIndex(({ shared, mergeable }) => shared && mergeable);
  const at = i === 0 ? 'memory' : `memory.zones[${i - 1}]`;
  return i === -1
    ? undefined
    : {
        text: "Invalid to set both 'mergeable' and 'shared' for memory",
        remedy: `${at}.mergeable and ${at}.shared are true: set one of them to false`,
      };
};

const hugePageSize: ZoneRule = ({ at, hugepages, hugepage_size }) => {
  if (hugepage_size === undefined) return undefined;
  const field = `${at}.hugepage_size is ${hugepage_size}`;
  if (!hugepages)
    return {
      text: 'Huge page size specified but huge pages not enabled',
      remedy: `${field}: set ${at}.hugepages to true or drop it`,
    };
  if (isPowerOfTwo(hugepage_size)) return undefined;
  return {
    text: `Huge page size is not power of 2: ${hugepage_size}`,
    remedy: `${field}: give a size that the host's kernel has, such as ${HUGE_PAGE_BYTES}`,
  };
};

const hotplugged: ZoneRule = (zone) => {
  const { at, hotplug_method, hotplug_size = 0, hotplugged_size } = zone;
  if (hotplugged_size === undefined) return undefined;
  const isFine =
    hotplugged_size <= hotplug_size &&
    hotplugged_size % blockBytes(zone) === 0 &&
    hotplug_method === 'VirtioMem';
  if (isFine) return undefined;
  return {
    text: 'Memory configuration is not valid',
    remedy:
      `${at}.hotplugged_size is ${hotplugged_size}: it needs memory.hotplug_method VirtioMem ` +
      `and ${at}.hotplug_size of no less, and to be a multiple of ${blockBytes(zone)}`,
  };
};

const zoneHotplug: Rule = ({ memory: { zones = [], hotplug_method } }) => {
  const i = zones.findIndex(({ hotplug_size }) => hotplug_size !== undefined);
  if (i === -1 || hotplug_method === 'VirtioMem') return undefined;
  return {
    text: 'Memory configuration is not valid',
    remedy: `memory.zones[${i}].hotplug_size is given: set memory.hotplug_method to VirtioMem`,
  };
};

const zoneIds: Rule = ({ memory: { zones = [] } }) => {
  const i = zones.findIndex(({ id }, i) => zones.findIndex((zone) => zone.id === id) < i);
  return i === -1
    ? undefined
    : {
        text: 'Memory zone identifier is not unique',
        remedy: `memory.zones[${i}].id is ${zones[i]?.id}: give each zone an id of its own`,
        kind: 'conflict',
      };
};

const zoneBacking: Rule = ({ memory: { zones = [] } }) => {
  const i = zones.findIndex(
    (z) => z.shared && z.file !== undefined && z.host_numa_node !== undefined,
  );
  return i === -1
    ? undefined
    : {
        text: 'Memory configuration is not valid',
        remedy: `memory.zones[${i}] has shared, file and host_numa_node: drop one of the three`,
      };
};

const zonesAlone: Rule = ({ memory: { zones = [], hotplug_size, hotplugged_size } }) => {
  const given = Object.entries({ hotplug_size, hotplugged_size }).find(([, size]) => size);
  return zones.length === 0 || given === undefined
    ? undefined
    : {
        text: 'Memory configuration is not valid',
        remedy:
          `memory.${given[0]} is ${given[1]} and memory.zones is given: ` +
          'give it to the zones that are to grow',
      };
};

/** The core takes 64 pieces of memory in all, and files of devices are some. */
const PIECES_MAX = 48;
/** Of a zone that grows, beside its own: a quarter of what may come at a time. */
const PIECES_TO_COME = 4;

const zoneCount: Rule = ({ memory }) => {
  const zones = ramZones(memory);
  const growing = zones.filter(hasBlocks).length;
  return zones.length + PIECES_TO_COME * growing <= PIECES_MAX
    ? undefined
    : {
        text: 'Too many memory zones',
        remedy:
          `memory.zones has ${zones.length}, ${growing} with hotplug_size: give at most ` +
          `${PIECES_MAX}, of which each that has hotplug_size counts ${1 + PIECES_TO_COME}`,
      };
};

const ID_BYTES_MAX = 255;

const zoneNames: Rule = ({ memory: { zones = [] } }) => {
  const i = zones.findIndex(({ id }) => id === '' || Buffer.byteLength(id) > ID_BYTES_MAX);
  return i === -1
    ? undefined
    : {
        text: 'Memory zone identifier is not valid',
        remedy: `memory.zones[${i}].id has ${zones[i]?.id.length} characters: give 1 to 255`,
      };
};

const hostNodes: Rule = ({ memory }, host) => {
  const bound = ramZones(memory).filter(({ host_numa_node: node }) => node !== undefined);
  if (bound.length === 0) return undefined;
  const nodes = host.numaNodes();
  const zone = bound.find(({ host_numa_node: node = 0 }) => !nodes.has(node));
  return (
    zone && {
      text: 'Memory configuration is not valid',
      remedy:
        `${zone.at}.host_numa_node is ${zone.host_numa_node}: ` +
        `the host has ${[...nodes].join(', ') || 'none'}`,
    }
  );
};

export const MEMORY_RULES: readonly Rule[] = [
  sizeOrZones,
  ofEveryZone(aligned),
  largeEnough,
  withinHost,
  sharedOrMergeable,
  ofEveryZone(hugePageSize),
  ofEveryZone(hotplugged),
  zoneHotplug,
  zoneIds,
  zoneBacking,
  zonesAlone,
  zoneNames,
  zoneCount,
  hostNodes,
];
