/** Which of the guest's processors, memory and buses lie close to each other. Pure. */
import { type MemoryConfig, ramZones } from './config/memory.ts';
import type { NumaConfig } from './config/platform.ts';
import { type DeviceArea, type GpaRange, zoneRegions } from './layout.ts';

/** Node ids are below it: far above what guests have, and the tables of all of them are small. */
export const NODES_MAX = 128;

/** Of a node to itself: ACPI 6.5 §5.2.17. */
export const DISTANCE_LOCAL = 10;
/** Of nodes of which nothing is said. */
const DISTANCE_REMOTE = 20;

export interface NumaMemory extends GpaRange {
  node: number;
  /** RAM may come here later. */
  isPluggable: boolean;
}

/** The nodes of a guest; without any, it is told of none. */
export class Numa {
  readonly #nodes: readonly NumaConfig[];
  /** By memory zone, its node. */
  readonly zones: ReadonlyMap<string, number>;
  /** In the order of their addresses, by zone; none if there are no nodes. */
  readonly memory: readonly NumaMemory[];

  constructor(nodes: readonly NumaConfig[], memory: MemoryConfig, area: DeviceArea) {
    this.#nodes = nodes;
    const zones = ramZones(memory);
    this.zones = nodesOfZones(
      nodes,
      zones.map(({ id }) => id),
    );
    const regions = zoneRegions(zones.map(({ size }) => size));
    this.memory = zones.flatMap(({ id }, i) => {
      const node = this.zones.get(id);
      if (node === undefined) return [];
      const there = (regions[i] ?? []).map((range) => ({ ...range, node, isPluggable: false }));
      const later = [area.pluggable[i] ?? { gpa: 0, sizeBytes: 0 }]
        .filter(({ sizeBytes }) => sizeBytes > 0)
        .map((range) => ({ ...range, node, isPluggable: true }));
      return [...there, ...later];
    });
  }

  /** How many rows a table of distances has; 0 without nodes. */
  get localities(): number {
    return Math.max(-1, ...this.#nodes.map(({ guest_numa_id }) => guest_numa_id)) + 1;
  }

  distance(from: number, to: number): number {
    if (from === to) return DISTANCE_LOCAL;
    const node = this.#nodes.find(({ guest_numa_id }) => guest_numa_id === from);
    return (
      node?.distances?.find(({ destination }) => destination === to)?.distance ?? DISTANCE_REMOTE
    );
  }

  nodeOfCpu(cpu: number): number | undefined {
    return this.#nodes.find(({ cpus }) => cpus?.includes(cpu))?.guest_numa_id;
  }

  nodeOfSegment(segment: number): number | undefined {
    return this.#nodes.find(({ pci_segments }) => pci_segments?.includes(segment))?.guest_numa_id;
  }

  /** Devices, by id, that are a node's own way to its memory. */
  get initiators(): { id: string; node: number }[] {
    return this.#nodes.flatMap(({ device_id: id, guest_numa_id: node }) =>
      id === undefined ? [] : [{ id, node }],
    );
  }
}

/** Where none names a zone, the first has all RAM: a guest makes nothing of nodes without any. */
function nodesOfZones(
  nodes: readonly NumaConfig[],
  zones: readonly string[],
): ReadonlyMap<string, number> {
  const named = nodes.flatMap(({ memory_zones = [], guest_numa_id: node }) =>
    memory_zones.map((zone) => [zone, node] as const),
  );
  const [first] = nodes;
  if (named.length > 0 || !first) return new Map(named);
  return new Map(zones.map((zone) => [zone, first.guest_numa_id]));
}
