import { expect, test } from 'vitest';
import { CpuHotplug } from '../../../src/devices/acpi/cpu-hotplug.ts';
import type { NewVcpu } from '../../../src/native.ts';
import { flatTopology } from '../../../src/vmm/cpuid.ts';
import { Cpus } from '../../../src/vmm/cpus.ts';

const LEAF = { function: 1, index: 0, flags: 0, eax: 0, ebx: 0, ecx: 0, edx: 0 };

interface Faults {
  /** KVM makes vCPUs below this one only. */
  makesBelow?: number;
  /** The host has no thread for this one, the first time. */
  noThreadFor?: number;
}

/** The vCPUs of a VM with `boot` of `max`, the last of them with an affinity. */
function create(boot: number, max: number, { makesBelow = max, noThreadFor }: Faults = {}) {
  const said: string[] = [];
  const made = new Map<number, NewVcpu>();
  let noThread = noThreadFor;
  const vm = {
    makeVcpus: async (first: number, vcpus: NewVcpu[]) => {
      said.push(`make ${first}+${vcpus.length}`);
      vcpus.forEach((vcpu, i) => {
        if (first + i >= makesBelow) throw new Error('ENOMEM');
        made.set(first + i, vcpu);
      });
    },
    whenReset: async () => {},
    plug: (vcpu: number) => {
      if (vcpu === noThread) {
        noThread = undefined;
        throw new Error('EAGAIN');
      }
      said.push(`plug ${vcpu}`);
    },
    unplug: (vcpu: number) => void said.push(`unplug ${vcpu}`),
  };
  const cpuHotplug = new CpuHotplug({
    gpa: 0,
    madtEntries: Array.from({ length: max }, () => new Uint8Array(16)),
    presentCount: boot,
    onEject: vm.unplug,
  });
  const cpus = new Cpus({
    vm,
    platform: { cpuHotplug, notifyCpus: () => void said.push('notify') },
    config: {
      ...{ boot_vcpus: boot, max_vcpus: max, kvm_hyperv: false, max_phys_bits: 46, nested: true },
      ...{ features: { amx: false }, core_scheduling: 'Off', profile: 'Host' },
      affinity: [{ vcpu: max - 1, host_cpus: [7] }],
    },
    facts: { host: [LEAF], topology: flatTopology(max), physBits: 40, tscKhz: undefined },
  });
  const eject = (vcpu: number) => {
    cpuHotplug.write(0, 4, vcpu);
    cpuHotplug.write(4, 1, 8);
  };
  const heard = () => said.splice(0);
  return { cpus, cpuHotplug, eject, heard, made };
}

test('more vCPUs are made and plugged before the guest hears of them', async () => {
  const { cpus, cpuHotplug, heard } = create(1, 4);

  await cpus.resize(3);

  expect(heard()).toEqual(['make 1+2', 'plug 1', 'plug 2', 'notify']);
  expect(cpuHotplug.presentCount).toBe(3);
});

test('each is made with its own APIC id, in CPUID too, and where it may run', async () => {
  const { cpus, made } = create(1, 3);

  await cpus.resize(3);

  const facts = [...made].map(([vcpu, { apicId, hostCpus, cpuid }]) => [
    ...[vcpu, apicId, hostCpus],
    (cpuid.find((leaf) => leaf.function === 1)?.ebx ?? 0) >>> 24,
  ]);
  expect(facts).toEqual([
    [1, 1, [], 1],
    [2, 2, [7], 2],
  ]);
});

test('as many as there are is nothing to do', async () => {
  const { cpus, heard } = create(2, 4);
  await cpus.resize(2);
  expect(heard()).toEqual([]);
});

test('fewer are the guest’s to give up; each is unplugged as it does', async () => {
  const { cpus, eject, heard } = create(4, 4);

  await cpus.resize(2);
  expect(heard()).toEqual(['notify']);

  eject(3);
  eject(2);
  expect(heard()).toEqual(['unplug 3', 'unplug 2']);
});

test('while the guest has some to give up, every number is refused, and it is told again', async () => {
  const { cpus, eject, heard } = create(4, 4);
  await cpus.resize(2);
  eject(3);
  heard();

  for (const count of [1, 2, 3, 4]) {
    await expect(cpus.resize(count)).rejects.toMatchObject({ kind: 'busy' });
    expect(heard()).toEqual(['notify']);
  }

  eject(2);
  heard();
  await cpus.resize(3);
  expect(heard()).toEqual(['plug 2', 'notify']);
});

test('what was made once is plugged again as it is', async () => {
  const { cpus, eject, heard } = create(1, 3);
  await cpus.resize(2);
  await cpus.resize(1);
  eject(1);
  heard();

  await cpus.resize(3);

  expect(heard()).toEqual(['make 2+1', 'plug 1', 'plug 2', 'notify']);
});

test('if KVM makes no more, there are as many as before', async () => {
  const { cpus, cpuHotplug, heard } = create(1, 4, { makesBelow: 2 });

  await expect(cpus.resize(4)).rejects.toMatchObject({ kind: 'host' });

  expect(heard()).toEqual(['make 1+3']);
  expect(cpuHotplug.presentCount).toBe(1);
});

test('if the host has no thread for one, none is plugged, and the next try may succeed', async () => {
  const { cpus, cpuHotplug, heard } = create(1, 4, { noThreadFor: 2 });

  await expect(cpus.resize(4)).rejects.toMatchObject({ kind: 'host' });
  expect(heard()).toEqual(['make 1+3', 'plug 1', 'unplug 1']);
  expect(cpuHotplug.presentCount).toBe(1);

  await cpus.resize(4);
  expect(heard()).toEqual(['plug 1', 'plug 2', 'plug 3', 'notify']);
});
