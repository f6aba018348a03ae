/** What the NUMA nodes of a guest must be. */
import type { VmConfig } from '../../config.ts';
import { deviceIds } from '../../devices.ts';
import { DISTANCE_LOCAL, NODES_MAX } from '../../numa.ts';
import { ramZones } from '../memory.ts';
import type { NumaConfig } from '../platform.ts';
import { each, type Fault, type Rule } from './rule.ts';

const invalid = (remedy: string): Fault => ({ text: 'Invalid NUMA configuration', remedy });

const DISTANCE_MAX = 255;

const nodeIds: Rule = ({ numa = [] }) => {
  const ids = numa.map(({ guest_numa_id }) => guest_numa_id);
  const i = ids.findIndex((id, i) => id >= NODES_MAX || ids.indexOf(id) < i);
  if (i === -1) return undefined;
  const field = `numa[${i}].guest_numa_id is ${ids[i]}`;
  if (Number(ids[i]) >= NODES_MAX) return invalid(`${field}: give 0 to ${NODES_MAX - 1}`);
  return { ...invalid(`${field}: give each node an id of its own`), kind: 'conflict' };
};

const distances = each('numa', ({ guest_numa_id: from, distances = [] }, at, { numa = [] }) => {
  for (const [i, { destination: to, distance }] of distances.entries()) {
    const field = `${at}.distances[${i}]`;
    if (!numa.some(({ guest_numa_id }) => guest_numa_id === to))
      return invalid(`${field}.destination is ${to}: name a node of numa`);
    if (distances.findIndex(({ destination }) => destination === to) < i)
      return invalid(`${field}.destination is ${to} a second time: give each one distance`);
    if (from === to && distance !== DISTANCE_LOCAL)
      return invalid(`${field}.distance is ${distance}, of a node to itself: give 10, or none`);
    if (from !== to && distance <= DISTANCE_LOCAL)
      return invalid(
        `${field}.distance is ${distance}: give ${DISTANCE_LOCAL + 1} to ${DISTANCE_MAX}, ` +
          `for ${DISTANCE_LOCAL} is that of a node to itself`,
      );
  }
  return undefined;
});

const cpusExist = each('numa', ({ cpus = [] }, at, { cpus: { max_vcpus: max } }) => {
  const wrong = cpus.find((cpu) => cpu >= max);
  return wrong === undefined
    ? undefined
    : invalid(`${at}.cpus names ${wrong}: give less than cpus.max_vcpus, which is ${max}`);
});

const zonesExist = each('numa', ({ memory_zones = [] }, at, { memory }) => {
  const zones = ramZones(memory).map(({ id }) => id);
  const wrong = memory_zones.find((zone) => !zones.includes(zone));
  return wrong === undefined
    ? undefined
    : invalid(`${at}.memory_zones names ${wrong}: name zones of memory.zones`);
});

const segmentsExist = each('numa', ({ pci_segments = [] }, at, { platform }) => {
  const count = platform?.num_pci_segments ?? 1;
  const wrong = pci_segments.find((segment) => segment >= count);
  return wrong === undefined
    ? undefined
    : invalid(
        `${at}.pci_segments names ${wrong}: give less than platform.num_pci_segments, ${count}`,
      );
});

const devicesExist = each('numa', ({ device_id: id }, at, config) =>
  id === undefined || deviceIds(config).includes(id)
    ? undefined
    : invalid(`${at}.device_id is ${id}: name a device of the config by its id`),
);

/** A guest has each thing in one node, or makes nothing of any. */
const inOneNode =
  (field: 'cpus' | 'memory_zones' | 'pci_segments'): Rule =>
  ({ numa = [] }) => {
    const named: (number | string)[] = [];
    for (const [i, node] of numa.entries()) {
      const things: readonly (number | string)[] = node[field] ?? [];
      const twice = things.find((thing, k) => named.includes(thing) || things.indexOf(thing) < k);
      if (twice !== undefined)
        return invalid(`numa[${i}].${field} names ${twice} a second time: name it in one node`);
      named.push(...things);
    }
    return undefined;
  };

/** RAM of no node makes a guest forget about all of them. */
const zonesAddUp: Rule = ({ numa = [], memory }: VmConfig) => {
  const named = numa.flatMap(({ memory_zones = [] }: NumaConfig) => memory_zones);
  const left = ramZones(memory).find(({ id }) => named.length > 0 && !named.includes(id));
  return left && invalid(`No memory_zones of numa names ${left.id}: name every zone of memory`);
};

export const NUMA_RULES: readonly Rule[] = [
  nodeIds,
  distances,
  cpusExist,
  zonesExist,
  segmentsExist,
  devicesExist,
  inOneNode('cpus'),
  inOneNode('memory_zones'),
  inOneNode('pci_segments'),
  zonesAddUp,
];
