/**
 * What the guest's CPUs say of themselves. Pure: the host's leaves in, each vCPU's leaves out.
 * SDM vol. 2 CPUID, AMD APM vol. 3 appendix E, Linux `virt/kvm/x86/cpuid.rst`.
 */
import type { CpuidEntry } from '../native-boot.ts';

/** Each at least 1; their product is how many vCPUs there can be, at most 254. */
export interface Topology {
  threadsPerCore: number;
  coresPerDie: number;
  diesPerPackage: number;
  packages: number;
}

export interface CpuidOptions {
  /** The list's last vCPU is the one before this. */
  vcpus: number;
  /** Its first; 0 if not given. */
  first?: number;
  topology: Topology;
  /** Whether the guest may be a hypervisor itself. */
  nested: boolean;
  amx: boolean;
  physBits: number;
  /** Told where Intel guests look for it; undefined where it is not known. */
  tscKhz: number | undefined;
}

/** What `cpus` without a topology means. */
export const flatTopology = (vcpus: number): Topology => ({
  threadsPerCore: 1,
  coresPerDie: vcpus,
  diesPerPackage: 1,
  packages: 1,
});

/** Bits of an APIC id for one of `count`, a positive integer. */
const width = (count: number): number => 32 - Math.clz32(count - 1);

/** Below which bit of the APIC id the threads of one core, die and package are told apart. */
function shifts({ threadsPerCore, coresPerDie, diesPerPackage }: Topology) {
  const core = width(threadsPerCore);
  const die = core + width(coresPerDie);
  return { core, die, packages: die + width(diesPerPackage) };
}

/** vCPUs fill a core, then a die, then a package; each has a bit field of its own in the id. */
export function apicId(topology: Topology, vcpu: number): number {
  const { threadsPerCore, coresPerDie, diesPerPackage } = topology;
  const shift = shifts(topology);
  const core = Math.floor(vcpu / threadsPerCore);
  const die = Math.floor(core / coresPerDie);
  return (
    (vcpu % threadsPerCore) |
    ((core % coresPerDie) << shift.core) |
    ((die % diesPerPackage) << shift.die) |
    (Math.floor(die / diesPerPackage) << shift.packages)
  );
}

const PHYS_BITS_DEFAULT = 36; // of a CPU without leaf 0x80000008

/** How many physical address bits the guest's CPUs have. */
export function physBits(host: readonly CpuidEntry[], maxPhysBits: number): number {
  const leaf = host.find((entry) => entry.function === 0x8000_0008);
  return Math.min(leaf ? leaf.eax & 0xff : PHYS_BITS_DEFAULT, maxPhysBits);
}

const VENDOR_INTEL = 0x756e6547; // "Genu", in EBX of leaf 0
const VENDORS_AMD = [0x68747541, 0x6f677948]; // "Auth", "Hygo"

const LEAF_TOPOLOGY = 0xb;
const LEAF_TOPOLOGY_V2 = 0x1f;
const LEAF_HYPERVISOR = 0x4000_0000;
/** VMware's timing leaf, which KVM guests read too: EAX is the TSC's frequency in kHz. */
const LEAF_TSC_FREQUENCY = 0x4000_0010;
const LEAF_SVM = 0x8000_000a;
const LEAF_AMX_TILES = 0x1d;
const LEAF_AMX_MULTIPLY = 0x1e;

/** `function.index`, the register, bits to set and bits to clear. */
type Patch = [leaf: string, register: 'eax' | 'ecx' | 'edx', set: number, clear: number];

const bits = (...numbers: number[]): number => numbers.reduce((sum, n) => sum + 2 ** n, 0);

const ALWAYS: Patch[] = [
  ['1.0', 'ecx', bits(21, 24, 31), 0], // x2APIC, TSC deadline, hypervisor
  ['1.0', 'edx', bits(12), 0], // MTRR
];
const NOT_NESTED: Patch[] = [
  ['1.0', 'ecx', 0, bits(5)], // VMX
  ['80000001.0', 'ecx', 0, bits(2)], // SVM
];
const NO_AMX: Patch[] = [
  ['7.0', 'edx', 0, bits(22, 24, 25)], // BF16, tiles, INT8
  ['7.1', 'eax', 0, bits(21)], // FP16
  ['7.1', 'edx', 0, bits(8)], // COMPLEX
  ['d.0', 'eax', 0, bits(17, 18)], // XCR0: tile configuration, tile data
];
const AMX_STATES = [17, 18]; // their indices in leaf 0xd

/**
 * One list a vCPU. Caches (leaves 4 and 0x8000001d), brand and all the rest are the host's.
 *
 * @param host what KVM supports, with the host's own brand string.
 */
export function guestCpuid(host: readonly CpuidEntry[], options: CpuidOptions): CpuidEntry[][] {
  const { vcpus, first = 0, topology } = options;
  const common = commonLeaves(host, options);
  const amd = VENDORS_AMD.includes(vendor(host));
  return Array.from({ length: vcpus - first }, (_, i) => [
    ...common.map((entry) => ({ ...entry, ...identity(entry, first + i, topology, amd) })),
    ...topologyLeaves(apicId(topology, first + i), topology),
  ]);
}

const vendor = (host: readonly CpuidEntry[]): number =>
  host.find((entry) => entry.function === 0)?.ebx ?? 0;

/** All that is the same for every vCPU. */
function commonLeaves(host: readonly CpuidEntry[], options: CpuidOptions): CpuidEntry[] {
  const { nested, amx, physBits, tscKhz } = options;
  const dropped = new Set([LEAF_TOPOLOGY, LEAF_TOPOLOGY_V2, LEAF_TSC_FREQUENCY]);
  if (!nested) dropped.add(LEAF_SVM);
  if (!amx) dropped.add(LEAF_AMX_TILES).add(LEAF_AMX_MULTIPLY);
  const tsc = vendor(host) === VENDOR_INTEL && tscKhz !== undefined ? tscKhz : undefined;
  const patches = [...ALWAYS, ...(nested ? [] : NOT_NESTED), ...(amx ? [] : NO_AMX)];

  const leaves = host
    .filter((entry) => !dropped.has(entry.function))
    .filter((entry) => amx || entry.function !== 0xd || !AMX_STATES.includes(entry.index))
    .map((entry) => patched(entry, patches));
  for (const leaf of leaves) {
    if (leaf.function === 0) leaf.eax = Math.max(leaf.eax, LEAF_TOPOLOGY);
    if (leaf.function === 0x8000_0008) leaf.eax = ((leaf.eax & ~0xff) | physBits) >>> 0;
    if (leaf.function === LEAF_HYPERVISOR && tsc !== undefined)
      leaf.eax = Math.max(leaf.eax, LEAF_TSC_FREQUENCY);
  }
  if (tsc === undefined) return leaves;
  return [...leaves, { ...EMPTY, function: LEAF_TSC_FREQUENCY, eax: tsc }];
}

const EMPTY: CpuidEntry = { function: 0, index: 0, flags: 0, eax: 0, ebx: 0, ecx: 0, edx: 0 };

function patched(entry: CpuidEntry, patches: readonly Patch[]): CpuidEntry {
  const leaf = `${entry.function.toString(16)}.${entry.index}`;
  const copy = { ...entry };
  for (const [at, register, set, clear] of patches)
    if (at === leaf) copy[register] = ((copy[register] | set) & ~clear) >>> 0;
  return copy;
}

/** The registers of a leaf that say which CPU this is, or how many share its package. */
function identity(
  entry: CpuidEntry,
  vcpu: number,
  topology: Topology,
  amd: boolean,
): Partial<CpuidEntry> {
  const { threadsPerCore, coresPerDie, diesPerPackage } = topology;
  const id = apicId(topology, vcpu);
  const shift = shifts(topology);
  const threads = threadsPerCore * coresPerDie * diesPerPackage; // of a package
  switch (entry.function) {
    case 0x1: {
      const htt = bits(28);
      return {
        ebx: ((id << 24) | (threads << 16) | (entry.ebx & 0xffff)) >>> 0,
        edx: (threads > 1 ? entry.edx | htt : entry.edx & ~htt) >>> 0,
      };
    }
    case 0x8000_0008:
      if (!amd) return {};
      return { ecx: ((entry.ecx & ~0xf0ff) | (shift.packages << 12) | (threads - 1)) >>> 0 };
    case 0x8000_001e: {
      const core = (id & ((1 << shift.packages) - 1)) >> shift.core;
      const node = Math.floor(vcpu / (threadsPerCore * coresPerDie));
      return {
        eax: id,
        ebx: ((threadsPerCore - 1) << 8) | (core & 0xff),
        ecx: (((diesPerPackage - 1) & 7) << 8) | (node & 0xff),
      };
    }
    default:
      return {};
  }
}

const LEVEL_SMT = 1;
const LEVEL_CORE = 2;
const LEVEL_DIE = 5;
const INDEXED = 1; // KVM_CPUID_FLAG_SIGNIFCANT_INDEX

/** The levels from the thread up: how far to shift the id for the next, how many threads in one. */
function topologyLeaves(id: number, topology: Topology): CpuidEntry[] {
  const { threadsPerCore, coresPerDie, diesPerPackage } = topology;
  const shift = shifts(topology);
  const dieThreads = threadsPerCore * coresPerDie;
  const packageThreads = dieThreads * diesPerPackage;
  const level = (leaf: number, index: number, type: number, eax: number, ebx: number) => ({
    ...{ function: leaf, index, flags: INDEXED },
    ...{ eax, ebx, ecx: (type << 8) | index, edx: id },
  });
  return [
    level(LEAF_TOPOLOGY, 0, LEVEL_SMT, shift.core, threadsPerCore),
    level(LEAF_TOPOLOGY, 1, LEVEL_CORE, shift.packages, packageThreads),
    level(LEAF_TOPOLOGY_V2, 0, LEVEL_SMT, shift.core, threadsPerCore),
    level(LEAF_TOPOLOGY_V2, 1, LEVEL_CORE, shift.die, dieThreads),
    level(LEAF_TOPOLOGY_V2, 2, LEVEL_DIE, shift.packages, packageThreads),
  ];
}
