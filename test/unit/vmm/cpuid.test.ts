import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import type { CpuidEntry } from '../../../src/native-boot.ts';
import {
  apicId,
  type CpuidOptions,
  flatTopology,
  guestCpuid,
  physBits,
  type Topology,
} from '../../../src/vmm/cpuid.ts';

type Registers = [eax: number, ebx: number, ecx: number, edx: number];
const entry = (leaf: number, index: number, registers: Registers): CpuidEntry => {
  const [eax, ebx, ecx, edx] = registers;
  return { function: leaf, index, flags: 0, eax, ebx, ecx, edx };
};

const ONES = 0xffff_ffff;
/** Leaves of a host on which CPU 5 answered, as KVM gives them; all ones where bits are masked. */
const host = (vendor: Registers): CpuidEntry[] => [
  entry(0, 0, vendor),
  entry(1, 0, [0x80_0f12, 0x0510_0800, 0x0000_0020, 0x0000_0000]),
  entry(4, 0, [0x1c00_4121, 1, 2, 3]),
  entry(7, 0, [1, ONES, ONES, ONES]),
  entry(7, 1, [ONES, ONES, ONES, ONES]),
  entry(0xb, 0, [9, 9, 9, 9]),
  entry(0xd, 0, [0x6_0007, 0x240, 0x340, 0]),
  entry(0xd, 2, [0x100, 0x240, 0, 0]),
  entry(0xd, 17, [0x40, 0xac0, 2, 0]),
  entry(0xd, 18, [0x2000, 0xb00, 6, 0]),
  entry(0x1d, 0, [1, 0, 0, 0]),
  entry(0x1e, 0, [0, 1, 0, 0]),
  entry(0x1f, 0, [9, 9, 9, 9]),
  entry(0x4000_0000, 0, [0x4000_0001, 0x4b4d_564b, 0x564b_4d56, 0x4d]),
  entry(0x4000_0001, 0, [0x0100_fefb, 0, 0, 0]),
  entry(0x8000_0001, 0, [0, 0, 0x0040_0007, 0]),
  entry(0x8000_0008, 0, [0x3028, 0, 0x3_4005, 0]),
  entry(0x8000_000a, 0, [1, 16, 0, 9]),
  entry(0x8000_001d, 0, [0x1c00_4121, 1, 2, 3]),
  entry(0x8000_001e, 0, [9, 9, 9, 0]),
];
const AMD = host([0xd, 0x6874_7541, 0x444d_4163, 0x6974_6e65]);
const INTEL = host([0x1f, 0x756e_6547, 0x6c65_746e, 0x4965_6e69]);

const guest = (leaves: CpuidEntry[], options: Partial<CpuidOptions> = {}) =>
  guestCpuid(leaves, {
    ...{ vcpus: 2, topology: flatTopology(2), nested: true, amx: false },
    ...{ physBits: 40, tscKhz: 2_500_000, ...options },
  });

/** The registers of one leaf of one vCPU, undefined where it is not there. */
function leaf(cpus: CpuidEntry[][], vcpu: number, at: number, index = 0): Registers | undefined {
  const found = cpus[vcpu]?.filter((e) => e.function === at && e.index === index) ?? [];
  expect(found.length).toBeLessThanOrEqual(1);
  return found[0] && [found[0].eax, found[0].ebx, found[0].ecx, found[0].edx];
}

describe('two vCPUs of an AMD host', () => {
  const cpus = guest(AMD);

  test('tell their APIC ids and their count', () => {
    const features = 0x8120_0020; // hypervisor, TSC deadline, x2APIC, and VMX of the host
    expect(leaf(cpus, 0, 1)).toEqual([0x80_0f12, 0x0002_0800, features, 0x1000_1000]);
    expect(leaf(cpus, 1, 1)).toEqual([0x80_0f12, 0x0102_0800, features, 0x1000_1000]);
  });

  test('list threads and cores in leaves 0xb and 0x1f, dies in the latter', () => {
    expect(leaf(cpus, 1, 0xb, 0)).toEqual([0, 1, 0x100, 1]);
    expect(leaf(cpus, 1, 0xb, 1)).toEqual([1, 2, 0x201, 1]);
    expect(leaf(cpus, 1, 0x1f, 0)).toEqual([0, 1, 0x100, 1]);
    expect(leaf(cpus, 1, 0x1f, 1)).toEqual([1, 2, 0x201, 1]);
    expect(leaf(cpus, 1, 0x1f, 2)).toEqual([1, 2, 0x502, 1]);
    expect(cpus[1]?.filter((e) => e.function === 0xb).map((e) => e.flags)).toEqual([1, 1]);
  });

  test("list them in AMD's own leaves", () => {
    expect(leaf(cpus, 1, 0x8000_0008)).toEqual([0x3028, 0, 0x3_1001, 0]);
    expect(leaf(cpus, 1, 0x8000_001e)).toEqual([1, 1, 0, 0]);
  });

  test('keep vendor, caches, brand and hypervisor of the host', () => {
    for (const at of [0, 4, 0x4000_0000, 0x4000_0001, 0x8000_000a, 0x8000_001d])
      expect(leaf(cpus, 1, at)).toEqual(leaf([AMD], 0, at));
    expect(leaf(cpus, 0, 0x4000_0010)).toBeUndefined();
  });
});

describe('vCPUs of an Intel host', () => {
  test("are told the TSC's frequency, within the maximum leaf", () => {
    const cpus = guest(INTEL);
    expect(leaf(cpus, 1, 0x4000_0010)).toEqual([2_500_000, 0, 0, 0]);
    expect(leaf(cpus, 1, 0x4000_0000)?.[0]).toBe(0x4000_0010);
  });

  test('are told nothing where it is not known', () => {
    const cpus = guest(INTEL, { tscKhz: undefined });
    expect(leaf(cpus, 0, 0x4000_0010)).toBeUndefined();
    expect(leaf(cpus, 0, 0x4000_0000)?.[0]).toBe(0x4000_0001);
  });

  test("keep leaf 0x80000008's ECX, which is AMD's", () => {
    expect(leaf(guest(INTEL), 0, 0x8000_0008)?.[2]).toBe(0x3_4005);
  });
});

test('one vCPU has no hyper-threading bit', () => {
  const cpus = guest(AMD, { vcpus: 1, topology: flatTopology(1) });
  expect(leaf(cpus, 0, 1)?.slice(1)).toEqual([0x0001_0800, 0x8120_0020, 0x1000]);
  expect(leaf(cpus, 0, 0x8000_0008)?.[2]).toBe(0x3_0000);
});

test('a host that ends before leaf 0xb still tells of its topology', () => {
  const old = AMD.map((e) => (e.function === 0 ? { ...e, eax: 7 } : e));
  expect(leaf(guest(old), 0, 0)?.[0]).toBe(0xb);
});

test('without nesting neither VMX nor SVM is seen', () => {
  const cpus = guest(AMD, { nested: false });
  expect(leaf(cpus, 0, 1)?.[2]).toBe(0x8120_0000);
  expect(leaf(cpus, 0, 0x8000_0001)?.[2]).toBe(0x0040_0003);
  expect(leaf(cpus, 0, 0x8000_000a)).toBeUndefined();
});

test('AMX is seen only where it was asked for', () => {
  const without = guest(INTEL);
  expect(leaf(without, 0, 7)?.[3]).toBe((ONES - 2 ** 22 - 2 ** 24 - 2 ** 25) >>> 0);
  expect(leaf(without, 0, 7, 1)).toEqual([ONES - 2 ** 21, ONES, ONES, ONES - 2 ** 8]);
  expect(leaf(without, 0, 0xd)?.[0]).toBe(7);
  expect(leaf(without, 0, 0xd, 2)).toBeDefined();
  for (const [at, index] of [
    [0xd, 17],
    [0xd, 18],
    [0x1d, 0],
    [0x1e, 0],
  ] as const)
    expect(leaf(without, 0, at, index)).toBeUndefined();

  const having = guest(INTEL, { amx: true });
  for (const at of [7, 0xd, 0x1d, 0x1e]) expect(leaf(having, 0, at)).toEqual(leaf([INTEL], 0, at));
  expect(leaf(having, 0, 0xd, 18)).toBeDefined();
});

test('a topology of 2 threads, 3 cores, 2 dies and 2 packages leaves gaps in the ids', () => {
  const topology = { threadsPerCore: 2, coresPerDie: 3, diesPerPackage: 2, packages: 2 };
  const cpus = guest(AMD, { vcpus: 24, topology });

  const ids = cpus.map((_, vcpu) => leaf(cpus, vcpu, 0xb)?.[3]);
  expect(ids).toEqual([
    ...[0, 1, 2, 3, 4, 5, 8, 9, 10, 11, 12, 13], // bits: package 4, die 3, core 2–1, thread 0
    ...[16, 17, 18, 19, 20, 21, 24, 25, 26, 27, 28, 29],
  ]);
  expect(leaf(cpus, 23, 1)?.[1]).toBe(0x1d0c_0800);
  expect(leaf(cpus, 23, 0xb, 0)).toEqual([1, 2, 0x100, 29]);
  expect(leaf(cpus, 23, 0xb, 1)).toEqual([4, 12, 0x201, 29]);
  expect(leaf(cpus, 23, 0x1f, 1)).toEqual([3, 6, 0x201, 29]);
  expect(leaf(cpus, 23, 0x1f, 2)).toEqual([4, 12, 0x502, 29]);
  expect(leaf(cpus, 23, 0x8000_0008)?.[2]).toBe(0x3_400b);
  expect(leaf(cpus, 23, 0x8000_001e)).toEqual([29, 0x106, 0x103, 0]);
});

test('254 vCPUs have the ids 0 to 253, each in its own leaf 1', () => {
  const cpus = guest(AMD, { vcpus: 254, topology: flatTopology(254) });
  for (const vcpu of [0, 127, 128, 253]) {
    expect(leaf(cpus, vcpu, 1)?.[1]).toBe(vcpu * 2 ** 24 + 0xfe_0800);
    expect(leaf(cpus, vcpu, 0xb, 1)).toEqual([8, 254, 0x201, vcpu]);
  }
});

test('APIC ids differ and rise with the vCPU, whatever the topology', () => {
  const part = fc.integer({ min: 1, max: 9 });
  fc.assert(
    fc.property(part, part, part, part, (threadsPerCore, coresPerDie, diesPerPackage, packages) => {
      const topology: Topology = { threadsPerCore, coresPerDie, diesPerPackage, packages };
      const count = threadsPerCore * coresPerDie * diesPerPackage * packages;
      const ids = Array.from({ length: count }, (_, vcpu) => apicId(topology, vcpu));
      expect(ids.every((id, i) => i === 0 || id > (ids[i - 1] ?? Number.NaN))).toBe(true);
    }),
    { numRuns: 30 },
  );
});

test.each([
  ['the lesser of both, the host', AMD, 46, 40],
  ['the lesser of both, the limit', AMD, 38, 38],
  ['36 on a host that does not say', [], 46, 36],
])('physical address bits are %s', (_, leaves, limit, bits) => {
  expect(physBits(leaves, limit)).toBe(bits);
});

test('the guest is told its physical address bits, the host left as it was', () => {
  const before = structuredClone(AMD);
  expect(leaf(guest(AMD, { physBits: 38 }), 0, 0x8000_0008)?.[0]).toBe(0x3026);
  expect(AMD).toEqual(before);
});
