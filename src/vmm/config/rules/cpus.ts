/** What the CPUs must be. */
import type { Rule } from './rule.ts';

/** An xAPIC id has 8 bits, and 255 means all of them. */
const VCPUS_MAX = 254;

/** Guest RAM and devices need more than this many address bits; every x86-64 has 36. */
const PHYS_BITS_MIN = 36;

const someVcpus: Rule = ({ cpus: { boot_vcpus } }) =>
  boot_vcpus > 0
    ? undefined
    : { text: 'No vCPUs to boot', remedy: 'cpus.boot_vcpus is 0: give at least 1' };

const bootWithinMax: Rule = ({ cpus: { boot_vcpus, max_vcpus } }) =>
  boot_vcpus <= max_vcpus
    ? undefined
    : {
        text: `Max CPUs (${max_vcpus}) lower than boot CPUs (${boot_vcpus})`,
        remedy: `cpus.max_vcpus is ${max_vcpus}: give at least ${boot_vcpus}, as cpus.boot_vcpus`,
      };

const notTooMany: Rule = ({ cpus: { max_vcpus } }) =>
  max_vcpus <= VCPUS_MAX
    ? undefined
    : {
        text: `Too many CPUs: specified ${max_vcpus} but ${VCPUS_MAX} is the limit`,
        remedy: `cpus.max_vcpus is ${max_vcpus}: give at most ${VCPUS_MAX}`,
      };

const topologyParts: Rule = ({ cpus: { topology = {} } }) => {
  const zero = Object.entries(topology).find(([, count]) => count === 0);
  return (
    zero && {
      text: 'CPU topology has an empty part',
      remedy: `cpus.topology.${zero[0]} is 0: give at least 1`,
    }
  );
};

const threadsPerCore: Rule = ({ cpus: { topology } }) =>
  topology === undefined || topology.threads_per_core <= 2
    ? undefined
    : {
        text: 'CPU topology supports at most 2 threads per core',
        remedy: `cpus.topology.threads_per_core is ${topology.threads_per_core}: give 1 or 2`,
      };

const topologyProduct: Rule = ({ cpus: { topology, max_vcpus } }) => {
  const product = Object.values(topology ?? {}).reduce((a, b) => a * b, 1);
  if (topology === undefined || product === max_vcpus) return undefined;
  return {
    text: 'Product of CPU topology parts does not match maximum vCPU',
    remedy: `cpus.topology multiplies to ${product}: make it cpus.max_vcpus, which is ${max_vcpus}`,
  };
};

const affinityVcpus: Rule = ({ cpus: { affinity = [], max_vcpus } }) => {
  const i = affinity.findIndex(({ vcpu }) => vcpu >= max_vcpus);
  const vcpu = affinity[i]?.vcpu;
  return vcpu === undefined
    ? undefined
    : {
        text: `No vCPU ${vcpu} to set the affinity of`,
        remedy: `cpus.affinity[${i}].vcpu is ${vcpu}: give a number below ${max_vcpus}`,
      };
};

const affinityHostCpus: Rule = ({ cpus: { affinity = [] } }, host) => {
  if (affinity.length === 0) return undefined;
  const online = host.cpus();
  for (const [i, { host_cpus }] of affinity.entries()) {
    const at = `cpus.affinity[${i}].host_cpus`;
    const missing = host_cpus.find((cpu) => !online.has(cpu));
    if (missing !== undefined)
      return {
        text: `Host has no CPU ${missing}`,
        remedy: `${at} names ${missing}: name CPUs that are online here`,
      };
    if (host_cpus.length === 0)
      return { text: 'No host CPU to run on', remedy: `${at} is empty: name at least one` };
  }
  return undefined;
};

const physBits: Rule = ({ cpus: { max_phys_bits } }) =>
  max_phys_bits >= PHYS_BITS_MIN
    ? undefined
    : {
        text: `Too few physical address bits: ${max_phys_bits}`,
        remedy: `cpus.max_phys_bits is ${max_phys_bits}: give at least ${PHYS_BITS_MIN}`,
      };

export const CPU_RULES: readonly Rule[] = [
  someVcpus,
  bootWithinMax,
  notTooMany,
  topologyParts,
  threadsPerCore,
  topologyProduct,
  affinityVcpus,
  affinityHostCpus,
  physBits,
];
