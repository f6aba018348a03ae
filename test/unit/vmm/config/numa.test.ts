import { expect, test } from 'vitest';
import { normalise } from '../../../../src/api/dialects.ts';
import { errorChain, VmmError } from '../../../../src/errors.ts';
import { checkConfig } from '../../../../src/vmm/config/check.ts';
import type { HostFacts } from '../../../../src/vmm/host.ts';

const MIB = 2 ** 20;
const GIB = 2 ** 30;

const host: HostFacts = {
  memoryBytes: () => 2 ** 40,
  cpus: () => new Set([0, 1]),
  numaNodes: () => new Set([0, 1]),
};

/** A guest of two zones in two nodes, four vCPUs, two disks. */
const body = (change: object) => ({
  payload: { kernel: '/k' },
  cpus: { boot_vcpus: 2, max_vcpus: 4 },
  memory: { size: 0, zones: [zone('a'), zone('b')] },
  platform: { num_pci_segments: 2 },
  disks: [{ path: '/d', id: 'd' }],
  ...change,
});
const zone = (id: string, rest = {}) => ({ id, size: 256 * MIB, ...rest });
const node = (guest_numa_id: number, rest = {}) => ({ guest_numa_id, ...rest });
const zones = (...all: object[]) => ({ memory: { size: 0, zones: all } });
const growing = (...all: object[]) => ({
  memory: { size: 0, hotplug_method: 'VirtioMem', zones: all },
});
const far = (...distances: [destination: number, distance: number][]) => ({
  numa: [
    node(0, { distances: distances.map(([destination, distance]) => ({ destination, distance })) }),
    node(1),
  ],
});

/** Messages of what is said to a config, the last first; none if it is taken. */
function refusal(change: object): string[] {
  try {
    checkConfig(normalise(body(change)).config, host);
    return [];
  } catch (error) {
    if (error instanceof VmmError) return errorChain(error).reverse();
    throw error;
  }
}

test.each<[change: object, text: string, remedy: string]>([
  [far([1, 0]), 'Invalid NUMA', 'numa[0].distances[0].distance is 0: give 11 to 255'],
  [far([1, 9]), 'Invalid NUMA', 'distance is 9: give 11 to 255'],
  [far([1, 10]), 'Invalid NUMA', 'distance is 10: give 11 to 255, for 10 is that of a node to'],
  [far([1, 256]), 'deserialize', 'numa[0].distances[0].distance is 256'],
  [far([0, 11]), 'Invalid NUMA', 'distance is 11, of a node to itself'],
  [far([2, 20]), 'Invalid NUMA', 'numa[0].distances[0].destination is 2: name a node'],
  [far([1, 20], [1, 30]), 'Invalid NUMA', 'distances[1].destination is 1 a second time'],
  [{ numa: [node(128)] }, 'Invalid NUMA', 'numa[0].guest_numa_id is 128: give 0 to 127'],
  [{ numa: [node(0), node(0)] }, 'Invalid NUMA', 'numa[1].guest_numa_id is 0: give each'],
  [{ numa: [node(0, { cpus: [4] })] }, 'Invalid NUMA', 'numa[0].cpus names 4: give less than'],
  [{ numa: [node(0, { cpus: [1, 1] })] }, 'Invalid NUMA', 'numa[0].cpus names 1 a second time'],
  [
    { numa: [node(0, { cpus: [0, 1] }), node(1, { cpus: [2, 1] })] },
    'Invalid NUMA',
    'numa[1].cpus names 1 a second time: name it in one node',
  ],
  [{ numa: [node(0, { memory_zones: ['q'] })] }, 'Invalid NUMA', 'memory_zones names q: name'],
  [
    { numa: [node(0, { memory_zones: ['a', 'b'] }), node(1, { memory_zones: ['b'] })] },
    'Invalid NUMA',
    'numa[1].memory_zones names b a second time',
  ],
  [{ numa: [node(0, { memory_zones: ['a'] })] }, 'Invalid NUMA', 'No memory_zones of numa names b'],
  [{ numa: [node(0, { pci_segments: [2] })] }, 'Invalid NUMA', 'pci_segments names 2: give less'],
  [{ numa: [node(0, { pci_segments: [1, 1] })] }, 'Invalid NUMA', 'names 1 a second time'],
  [
    { numa: [node(0, { device_id: 'x' })] },
    'Invalid NUMA',
    'numa[0].device_id is x: name a device',
  ],
  [zones(zone('a', { host_numa_node: 2 })), 'not valid', 'host_numa_node is 2: the host has 0, 1'],
  [zones(zone('')), 'identifier is not valid', 'memory.zones[0].id has 0 characters'],
  [
    zones(...Array.from({ length: 49 }, (_, i) => zone(`${i}`))),
    'Too many memory zones',
    'memory.zones has 49, 0 with hotplug_size: give at most 48',
  ],
  [
    growing(...Array.from({ length: 10 }, (_, i) => zone(`${i}`, { hotplug_size: GIB }))),
    'Too many memory zones',
    'memory.zones has 10, 10 with hotplug_size',
  ],
  [
    { memory: { size: 0, hotplug_size: GIB, zones: [zone('a')] } },
    'Memory configuration is not valid',
    `memory.hotplug_size is ${GIB} and memory.zones is given`,
  ],
  [
    zones(zone('a', { shared: true, mergeable: true })),
    "'mergeable' and 'shared'",
    'memory.zones[0].mergeable and memory.zones[0].shared are true',
  ],
  [
    growing(zone('d', { hotplug_size: GIB })),
    'Identifier d is not unique',
    'Two devices or groups have the id d',
  ],
])('%j is refused: %s, %s', (change, text, remedy) => {
  const [last, before] = refusal(change);

  expect(last).toContain(remedy);
  expect(before).toContain(text);
});

test.each([
  { numa: [node(0, { memory_zones: ['a'] }), node(1, { memory_zones: ['b'] })] },
  { numa: [node(0, { cpus: [0, 1], memory_zones: ['a', 'b'] }), node(1, { cpus: [2, 3] })] },
  { numa: [node(0), node(7, { device_id: 'd', pci_segments: [1] })] },
  { numa: [node(0, { memory_zones: ['mem0'] })], memory: { size: GIB } },
  far([1, 11], [0, 10]),
  far([1, 255]),
  zones(zone('a', { host_numa_node: 1 }), zone('d')),
  zones(...Array.from({ length: 48 }, (_, i) => zone(`${i}`))),
  growing(...Array.from({ length: 9 }, (_, i) => zone(`${i}`, { hotplug_size: GIB }))),
])('%j makes sense', (change) => {
  expect(refusal(change)).toEqual([]);
});
