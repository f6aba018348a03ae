/** Whether a config whose parts are well-formed makes sense as a whole, and on this host. */
import { VmmError } from '../../errors.ts';
import type { VmConfig } from '../config.ts';
import { notSupported, unsupportedDevices } from '../devices.ts';
import { type HostFacts, systemHost } from '../host.ts';
import { CPU_RULES } from './rules/cpus.ts';
import { IOMMU_RULES } from './rules/iommu.ts';
import { MACHINE_RULES } from './rules/machine.ts';
import { MEMORY_RULES } from './rules/memory.ts';
import { NETWORK_RULES } from './rules/network.ts';
import { NUMA_RULES } from './rules/numa.ts';
import { PCI_RULES } from './rules/pci.ts';
import type { Fault } from './rules/rule.ts';
import { SMBIOS_RULES } from './rules/smbios.ts';
import { STORAGE_RULES } from './rules/storage.ts';

const RULES = [
  ...CPU_RULES,
  ...MEMORY_RULES,
  ...NUMA_RULES,
  ...PCI_RULES,
  ...IOMMU_RULES,
  ...STORAGE_RULES,
  ...NETWORK_RULES,
  ...MACHINE_RULES,
  ...SMBIOS_RULES,
];

/**
 * Run when a VM is created. Files are not looked at.
 *
 * @throws VmmError 'invalid-config', or 'conflict' where something is named twice, with the first
 *   rule broken: its cause says what is wrong in the words that clients know, and the cause of that
 *   which field has which value and what to do.
 */
export function checkConfig(config: VmConfig, host: HostFacts = systemHost): void {
  for (const rule of RULES) {
    const fault = rule(config, host);
    if (fault) throw failure(fault);
  }
}

/**
 * The same for a config that has something more than another, which runs: what is not as it should
 * be with both, such as queues for vCPUs that were taken away, does not stand in the way.
 */
export function checkChange(from: VmConfig, to: VmConfig, host: HostFacts = systemHost): void {
  for (const rule of RULES) {
    const fault = rule(to, host);
    if (fault && rule(from, host)?.remedy !== fault.remedy) throw failure(fault);
  }
}

function failure({ text, remedy, kind }: Fault): VmmError {
  const cause = new Error(text, { cause: new Error(remedy) });
  return new VmmError(kind ?? 'invalid-config', 'Failed to validate config', cause);
}

/** Settings beside the devices that nothing serves yet; a boot must not ignore them. */
const UNSUPPORTED: Readonly<Record<string, (config: VmConfig) => unknown>> = {
  'payload.firmware': ({ payload }) => payload?.firmware,
  'payload.igvm': ({ payload }) => payload?.igvm,
  'payload.host_data': ({ payload }) => payload?.host_data,
  'cpus.kvm_hyperv': ({ cpus }) => cpus.kvm_hyperv,
  'cpus.core_scheduling': ({ cpus }) => cpus.core_scheduling === 'Vcpu',
  'cpus.features.amx': ({ cpus }) => cpus.features.amx,
  'platform.iommufd': ({ platform }) => platform?.iommufd,
  'platform.tdx': ({ platform }) => platform?.tdx,
  'platform.sev_snp': ({ platform }) => platform?.sev_snp,
};

/**
 * Run when a VM is booted: what only then must be there, and what we cannot do yet.
 *
 * @throws VmmError 'invalid-config' without a payload, or naming everything that is not supported.
 */
export function checkBootable(config: VmConfig): void {
  const { kernel, firmware } = config.payload ?? {};
  if (kernel === undefined && firmware === undefined)
    throw notBootable(
      'No bootitem provided: neither firmware nor kernel',
      'payload.kernel is missing: create the VM with the path of a kernel',
    );
  const settings = Object.keys(UNSUPPORTED).filter((name) => UNSUPPORTED[name]?.(config));
  const devices = unsupportedDevices(config);
  const names = [...settings, ...devices.names];
  if (names.length > 0)
    throw notSupported(names, ['Create the VM without what is named', ...devices.remedies]);
}

const notBootable = (text: string, remedy: string) =>
  new VmmError(
    'invalid-config',
    'Failed to validate config',
    new Error('Payload configuration is not bootable', {
      cause: new Error(text, { cause: new Error(remedy) }),
    }),
  );
