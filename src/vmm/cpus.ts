/**
 * The vCPUs of a booted VM: what the host is told of each, and how there come to be more or fewer.
 *
 * More are there at once, for the guest to start. Fewer is the guest's to do: until it has given up
 * all that it was asked for, the number cannot be changed again.
 */
import { VmmError } from '../errors.ts';
import type { NewVcpu, VcpuOptions, Vm } from '../native.ts';
import type { CpuidEntry } from '../native-boot.ts';
import type { CpusConfig } from './config/cpus.ts';
import { apicId, guestCpuid, type Topology } from './cpuid.ts';
import type { Platform } from './platform.ts';

/** What there is to know of the vCPUs besides the config, which the host decides. */
export interface CpuFacts {
  host: readonly CpuidEntry[];
  topology: Topology;
  physBits: number;
  tscKhz: number | undefined;
}

/** Of all vCPUs from `first` up to, and without, `end`. */
export const vcpuOptions = (
  { affinity }: CpusConfig,
  topology: Topology,
  first: number,
  end: number,
): VcpuOptions[] =>
  Array.from({ length: end - first }, (_, i) => ({
    apicId: apicId(topology, first + i),
    hostCpus: affinity?.find(({ vcpu }) => vcpu === first + i)?.host_cpus ?? [],
  }));

/** Of the same. */
export const vcpuCpuid = (
  { nested, features: { amx } }: CpusConfig,
  { host, topology, physBits, tscKhz }: CpuFacts,
  first: number,
  end: number,
): CpuidEntry[][] =>
  guestCpuid(host, { first, vcpus: end, topology, physBits, nested, amx, tscKhz });

export interface CpusOptions {
  vm: Pick<Vm, 'makeVcpus' | 'whenReset' | 'plug' | 'unplug'>;
  platform: Pick<Platform, 'notifyCpus'> & {
    cpuHotplug: Pick<
      Platform['cpuHotplug'],
      'presentCount' | 'isRemoving' | 'insertUpTo' | 'removeDownTo'
    >;
  };
  /** As at the boot. */
  config: CpusConfig;
  facts: CpuFacts;
}

export class Cpus {
  readonly #options: CpusOptions;
  /** How many KVM has made, which is never undone. */
  #madeCount: number;

  constructor(options: CpusOptions) {
    this.#options = options;
    this.#madeCount = options.config.boot_vcpus;
  }

  /**
   * @param count 1 to `max_vcpus`.
   * @throws VmmError 'busy' while the guest has not given up what it was last asked for, 'host' if
   *   KVM or the host has no vCPU to give: then there are as many as before.
   */
  async resize(count: number): Promise<void> {
    const { platform } = this.#options;
    const { cpuHotplug: hotplug, notifyCpus } = platform;
    if (hotplug.isRemoving) {
      notifyCpus(); // it may not have listened yet
      throw new VmmError('busy', 'The guest has yet to give up vCPUs');
    }
    const before = hotplug.presentCount;
    if (count === before) return;
    if (count > before) {
      await this.#plug(before, count);
      hotplug.insertUpTo(count);
    } else {
      hotplug.removeDownTo(count);
    }
    notifyCpus();
  }

  async #plug(first: number, end: number): Promise<void> {
    const { vm } = this.#options;
    let plugged = first;
    try {
      if (end > this.#madeCount) await vm.makeVcpus(this.#madeCount, this.#newVcpus(end));
      this.#madeCount = Math.max(this.#madeCount, end);
      await vm.whenReset(first, end);
      for (; plugged < end; plugged++) vm.plug(plugged);
    } catch (cause) {
      while (plugged > first) vm.unplug(--plugged);
      throw new VmmError('host', 'Error from CPU manager', cause);
    }
  }

  #newVcpus(end: number): NewVcpu[] {
    const { config, facts } = this.#options;
    const cpuid = vcpuCpuid(config, facts, this.#madeCount, end);
    return vcpuOptions(config, facts.topology, this.#madeCount, end).map((options, i) => ({
      ...options,
      cpuid: cpuid[i] ?? [],
    }));
  }
}
