/** The virtual CPUs: how many, how they are arranged, and where their threads may run. */
import type { Static } from '@sinclair/typebox';
import { bool, choice, list, object, option, uint } from '../../schema.ts';

export const CpusConfig = object(
  {
    boot_vcpus: uint(32, { cli: { key: 'boot', default: 1 } }),
    max_vcpus: uint(32, { cli: { key: 'max', sameAs: 'boot_vcpus' } }),
    topology: option(
      object(
        {
          threads_per_core: uint(16),
          cores_per_die: uint(16),
          dies_per_package: uint(16),
          packages: uint(16),
        },
        { cli: { separator: ':' } },
      ),
    ),
    kvm_hyperv: bool(false),
    max_phys_bits: uint(8, { default: 46 }),
    affinity: option(list(object({ vcpu: uint(32), host_cpus: list(uint(32)) }))),
    features: object({ amx: bool(false) }, { default: {} }),
    nested: bool(true),
    core_scheduling: choice(['Vm', 'Vcpu', 'Off'], { default: 'Vm' }),
    profile: choice(['Host'], { default: 'Host' }),
  },
  { default: { boot_vcpus: 1, max_vcpus: 1 } },
);
export type CpusConfig = Static<typeof CpusConfig>;
