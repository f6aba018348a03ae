/** The tables of NUMA nodes, as ACPICA reads them. */
import { describe, expect, test } from 'vitest';
import { GIB, MIB, Reader } from '../../src/bytes.ts';
import { buildAcpi } from '../../src/vmm/acpi/tables.ts';
import type { MemoryConfig } from '../../src/vmm/config/memory.ts';
import { deviceArea } from '../../src/vmm/layout.ts';
import { Numa } from '../../src/vmm/numa.ts';
import { recompile, tablesOf } from './support/acpica.ts';

const zone = (id: string, size: number, hotplug_size = 0) => ({
  ...{ id, size, shared: false, hugepages: false, prefault: false, reserve: false },
  ...{ mergeable: false, hotplug_size },
});
/** The second zone lies on both sides of the hole, and may grow. */
const MEMORY: MemoryConfig = {
  ...{ size: 0, mergeable: false, hotplug_method: 'VirtioMem', hugepages: false, thp: true },
  ...{ prefault: false, reserve: false },
  zones: [zone('a', 2 * GIB), zone('b', 2 * GIB, GIB)],
};
const AREA = deviceArea(
  40,
  4 * GIB,
  [0, GIB].map((sizeBytes) => ({ sizeBytes, alignBytes: 2 * MIB })),
);
const NODES = [
  {
    ...{ guest_numa_id: 0, cpus: [0, 1], memory_zones: ['a'] },
    distances: [{ destination: 2, distance: 17 }],
  },
  { guest_numa_id: 2, cpus: [3], memory_zones: ['b'], device_id: 'd' },
];

function table(signature: string) {
  const numa = new Numa(NODES, MEMORY, AREA);
  const processors = [0, 1, 2, 3].map((cpu) => ({
    ...{ apicId: 2 * cpu, present: cpu < 2, node: numa.nodeOfCpu(cpu) },
  }));
  const nodes = {
    localities: numa.localities,
    distance: (from: number, to: number) => numa.distance(from, to),
    memory: numa.memory,
    initiators: [{ node: 2, segment: 1, slot: 5 }],
  };
  const tables = buildAcpi([], { processors, segments: 1, numa: nodes });
  const bytes = tablesOf(tables).get(signature)?.bytes;
  if (!bytes) throw new Error(`No table ${signature}`);
  return { bytes, read: new Reader(bytes) };
}

describe.each(['SRAT', 'SLIT'])('%s', (signature) => {
  test('is recompiled by iasl without error or warning', async () => {
    const { verdict } = await recompile(signature, table(signature).bytes);

    expect(verdict).toContain(' 0 Errors, 0 Warnings');
  });
});

test('the SRAT has every processor, piece of RAM, place to grow, and device with its node', () => {
  const { bytes, read } = table('SRAT');

  expect(read.u32(36)).toBe(1);
  const cpu = (at: number) => [0, 4, 8, 12].map((field) => read.u32(at + field) & 0xffff);
  const [type, node] = [2 + (24 << 8), [0, 0, 2]];
  expect([0, 1, 2].map((i) => cpu(48 + 24 * i))).toEqual(
    [0, 2, 6].map((apicId, i) => [type, node[i], apicId, 1]),
  );
  const memory = (i: number) => {
    const at = 48 + 3 * 24 + 40 * i;
    return [read.u16(at), read.u32(at + 2), read.u64(at + 8), read.u64(at + 16), read.u32(at + 28)];
  };
  expect([0, 1, 2, 3].map((i) => memory(i))).toEqual([
    [1 + (40 << 8), 0, 0, 2 * GIB, 1],
    [1 + (40 << 8), 2, 2 * GIB, GIB, 1],
    [1 + (40 << 8), 2, 4 * GIB, GIB, 1],
    [1 + (40 << 8), 2, 5 * GIB, GIB, 3],
  ]);
  const at = 48 + 3 * 24 + 4 * 40;
  expect([read.u16(at), read.u8(at + 3), read.u32(at + 4)]).toEqual([5 + (32 << 8), 1, 2]);
  expect([read.u16(at + 8), read.u8(at + 10), read.u8(at + 11)]).toEqual([1, 0, 5 << 3]);
  expect([read.u32(at + 24), bytes.length]).toEqual([1, at + 32]);
});

test('the SLIT has a row for each node that there may be, and 20 where nothing is said', () => {
  const { bytes, read } = table('SLIT');

  expect(read.u64(36)).toBe(3);
  expect([...bytes.subarray(44)]).toEqual([10, 20, 17, 20, 10, 20, 20, 20, 10]);
});

test('where no node names a zone, the first has all RAM', () => {
  const [first] = NODES;
  const numa = new Numa([{ ...first, memory_zones: [], guest_numa_id: 1 }], MEMORY, AREA);

  expect(numa.memory.map(({ node }) => node)).toEqual([1, 1, 1, 1]);
  expect(new Numa([], MEMORY, AREA)).toMatchObject({ localities: 0, memory: [] });
});
