/** What guest RAM must be. */
import { MIB } from '../../../bytes.ts';
import { blockBytes, type MemoryConfig, type MemoryZoneConfig, ramBytes } from '../memory.ts';
import { type Fault, isPowerOfTwo, type Rule } from './rule.ts';

const PAGE_BYTES = 4096;
const HUGE_PAGE_BYTES = 2 * MIB;

/** The first MiB is firmware's and tables'; a kernel starts above it. */
const RAM_BYTES_MIN = 2 * MIB;

/** What RAM as a whole and a zone of it have in common; `at` names it. */
type Part = Pick<
  MemoryZoneConfig,
  'size' | 'mergeable' | 'hugepages' | 'hotplug_size' | 'hotplugged_size'
> & { shared?: boolean; hugepage_size?: number };
type PartRule = (part: Part, at: string, memory: MemoryConfig) => Fault | undefined;

/** RAM as a whole, then every zone. */
const parts = (memory: MemoryConfig): [Part, string][] => [
  [memory, 'memory'],
  ...(memory.zones ?? []).map((zone, i): [Part, string] => [zone, `memory.zones[${i}]`]),
];

const ofEveryPart =
  (rule: PartRule): Rule =>
  ({ memory }) => {
    for (const [part, at] of parts(memory)) {
      const fault = rule(part, at, memory);
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

const aligned: PartRule = ({ size, hugepages, hugepage_size = HUGE_PAGE_BYTES }, at) => {
  const page = hugepages ? hugepage_size : PAGE_BYTES;
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

const sharedOrMergeable: PartRule = ({ shared, mergeable }, at) =>
  shared && mergeable
    ? {
        text: "Invalid to set both 'mergeable' and 'shared' for memory",
        remedy: `${at}.mergeable and ${at}.shared are true: set one of them to false`,
      }
    : undefined;

const hugePageSize: PartRule = ({ hugepages, hugepage_size }, at) => {
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

const hotplugged: PartRule = ({ hotplug_size = 0, hotplugged_size }, at, memory) => {
  if (hotplugged_size === undefined) return undefined;
  const isFine =
    hotplugged_size <= hotplug_size &&
    hotplugged_size % blockBytes(memory) === 0 &&
    memory.hotplug_method === 'VirtioMem';
  if (isFine) return undefined;
  return {
    text: 'Memory configuration is not valid',
    remedy:
      `${at}.hotplugged_size is ${hotplugged_size}: it needs memory.hotplug_method VirtioMem ` +
      `and ${at}.hotplug_size of no less, and to be a multiple of ${blockBytes(memory)}`,
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

export const MEMORY_RULES: readonly Rule[] = [
  sizeOrZones,
  ofEveryPart(aligned),
  largeEnough,
  withinHost,
  ofEveryPart(sharedOrMergeable),
  ofEveryPart(hugePageSize),
  ofEveryPart(hotplugged),
  zoneHotplug,
  zoneIds,
  zoneBacking,
];
