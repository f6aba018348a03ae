/**
 * One booted VM: builds RAM, vCPUs, devices and firmware tables from a config, runs, pauses and
 * ends them. It lives from boot to shutdown; a reboot makes a new one.
 */

import { VmmError } from '../errors.ts';
import { type GuestMemory, type Vm as NativeVm, native, type VmEvent } from '../native.ts';
import type { CpuidEntry } from '../native-boot.ts';
import type { RateLimiter } from '../native-limits.ts';
import { makeRateLimiter } from '../rate-limiter.ts';
import { dsdtTerms } from './acpi/dsdt.ts';
import type { IommuTables } from './acpi/iommu.ts';
import type { NumaTables } from './acpi/numa.ts';
import { buildAcpi } from './acpi/tables.ts';
import { ImageFile } from './boot/image.ts';
import { openKernel } from './boot/kernel.ts';
import { planBoot } from './boot/plan.ts';
import { blockBytes, ramBytes, ramZones, refused } from './config/memory.ts';
import type { VmConfig } from './config.ts';
import { type Consoles, Ports } from './consoles.ts';
import { apicId, flatTopology, physBits, type Topology } from './cpuid.ts';
import { type CpuFacts, Cpus, vcpuCpuid, vcpuOptions } from './cpus.ts';
import { type DeviceTree, platformNodes } from './device-tree.ts';
import { findBalloon, findMems, IOMMU_ID, pciDevices, type WantedDevice } from './devices.ts';
import type { OnEvent } from './events.ts';
import { VmIommu } from './iommu.ts';
import { deviceArea, MEMORY } from './layout.ts';
import { Numa } from './numa.ts';
import { SharedPassthrough } from './passthrough.ts';
import { PciDevices } from './pci-devices.ts';
import { segmentWindows } from './pci-segments.ts';
import { buildPlatform, type Platform } from './platform.ts';
import { Ram } from './ram.ts';
import { buildSmbios } from './smbios.ts';

/**
 * What a running VM tells of itself. Each is called in the middle of other work: start, don't do.
 */
export interface VmHooks {
  /**
   * The guest asked to be reset: by ACPI, the keyboard controller, CMOS, a triple
   * fault, or by no longer stroking its watchdog. */
  onReset: () => void;
  onPowerOff: () => void;
  /** A vCPU cannot go on, or a device of ours threw. The VM stays until it is shut down. */
  onError: (error: Error) => void;
  /** Something of a device is odd, but contained. */
  onWarning: (message: string) => void;
  /** Of its devices and the guest in it. */
  onEvent: OnEvent;
}

export class Vm {
  readonly #memory: GuestMemory;
  readonly #native: NativeVm;
  readonly #ports: Ports;
  readonly #platform: Platform;
  readonly #devices: PciDevices;
  readonly #ram: Ram;
  readonly #cpus: Cpus;

  private constructor(parts: Parts) {
    this.#memory = parts.memory;
    this.#native = parts.native;
    this.#ports = parts.ports;
    this.#platform = parts.platform;
    this.#devices = parts.devices;
    this.#ram = parts.ram;
    this.#cpus = parts.cpus;
  }

  /**
   * Resolves when the guest runs. If it rejects, nothing is left of the VM. `consoles` are open,
   * and every device of the config has its id.
   * @throws VmmError 'invalid-config' if kernel, RAM and the rest do not fit, 'host' if KVM fails.
   */
  static async boot(config: VmConfig, consoles: Consoles, hooks: VmHooks): Promise<Vm> {
    const payload = openPayload(config);
    const memory = new native.GuestMemory();
    let vm: NativeVm | undefined;
    let ports: Ports | undefined;
    let devices: PciDevices | undefined;
    try {
      const machine = describe(config);
      const ram = await Ram.add(memory, config.memory, machine.area, machine.numa.zones);
      vm = new native.Vm(memory, {
        vcpus: vcpuOptions(config.cpus, machine.topology, 0, config.cpus.boot_vcpus),
        vcpusMax: config.cpus.max_vcpus,
        tssGpa: MEMORY.kvmTss.gpa,
        onEvent: (event) => onEvent(event, hooks),
      });
      ports = new Ports(vm, consoles);
      const platform = buildPlatform({
        ...{ vm, serial: consoles.serial.isThere, ...machine, ...hooks },
        onEject: (place) => devices?.eject(place),
      });
      const iommu = VmIommu.of(native, config);
      devices = await PciDevices.attach(pciDevices(config), {
        iommu,
        ...{ vm, memory, native, buses: platform.buses },
        hotplug: platform.pciHotplug,
        ...{ console: ports.console, onWarning: hooks.onWarning, onEvent: hooks.onEvent },
        resetGuest: hooks.onReset,
        ...{ rateLimitGroups: rateLimitGroups(config), blocks: ram.blocks },
        passthrough: new SharedPassthrough({
          ...{ native, vm, memory, onWarning: hooks.onWarning },
          blocks: [...ram.blocks.values()],
          windows: [MEMORY.pci32, machine.area.pci64],
        }),
      });
      const facts = { ...machine, tscKhz: vm.tscKhz() };
      await vm.boot(plan(config, payload, facts, { platform, devices, iommu }));
      vm.run();
      ports.start();
      const cpus = new Cpus({ vm, platform, config: config.cpus, facts });
      return new Vm({ memory, native: vm, ports, platform, devices, ram, cpus });
    } catch (cause) {
      await vm?.stop();
      await devices?.dispose();
      await ports?.close();
      await memory.close();
      if (cause instanceof VmmError) throw cause;
      throw new VmmError('host', 'The host cannot run the VM', cause);
    } finally {
      closePayload(payload);
    }
  }

  /** Devices last: a vCPU may be in the middle of an access to one. */
  async pause(): Promise<void> {
    await this.#native.pause();
    await this.#devices.pause();
  }

  resume(): void {
    this.#devices.resume();
    this.#native.resume();
  }

  powerButton(): void {
    this.#platform.pressPowerButton();
  }

  nmi(): void {
    this.#native.nmi();
  }

  /** See Cpus. */
  resizeVcpus(count: number): Promise<void> {
    return this.#cpus.resize(count);
  }

  /**
   * Gives the guest RAM until it has so much in all. Resolves when it can see it; it may take it
   * later, or never. Less than there is comes with the next boot.
   * @throws VmmError 'invalid-config' if it cannot have so much, 'host' if the host has not got it.
   */
  async resizeRam(sizeBytes: number): Promise<void> {
    if (await this.#resizeBlocks(sizeBytes)) return;
    const range = this.#ram.missing(sizeBytes);
    if (!range) return;
    if (!this.#platform.hasMemorySlot || this.#devices.hasMostMemory)
      throw refused(
        'No memory slot is left',
        `desired_ram is ${sizeBytes}: reboot the VM, and the RAM that it has is one piece again`,
      );
    await this.#ram.plug(range, this.#native);
    try {
      await this.#devices.memoryChanged();
    } catch (error) {
      await this.#ram.unplug(range, this.#native);
      await this.#devices.memoryChanged();
      throw error;
    }
    this.#platform.plugMemory(range);
  }

  /**
   * Asks the guest to have so much of a zone, that the config has.
   * @throws VmmError 'invalid-config' if it cannot have so much, 'host' if the host has not got it.
   */
  async resizeZone(id: string, sizeBytes: number): Promise<void> {
    if (await this.#resizeBlocks(sizeBytes, id)) return;
    throw refused(
      'No virtio-mem resizing handler found',
      `id is ${id}: create the VM with memory.hotplug_method VirtioMem and a hotplug_size of it`,
    );
  }

  /** False if RAM, or the zone, does not grow by the block. */
  async #resizeBlocks(sizeBytes: number, id?: string): Promise<boolean> {
    const requestedBytes = this.#ram.requested(sizeBytes, id);
    if (requestedBytes === undefined) return false;
    const usable = await this.#ram.makeUsable(requestedBytes, this.#native, id);
    if (usable.isMore) await this.#devices.memoryChanged();
    findMems(this.#devices.virtio).get(usable.id)?.resize(requestedBytes, usable.sizeBytes);
    return true;
  }

  /**
   * Asks the guest to lend so much of its RAM.
   * @throws VmmError 'invalid-config' if it has no balloon, or not so much.
   */
  async resizeBalloon(sizeBytes: number): Promise<void> {
    const balloon = findBalloon(this.#devices.virtio);
    if (!balloon)
      throw refusedByDevices(
        "Missing virtio-balloon, can't proceed as expected",
        `desired_balloon is ${sizeBytes}: create the VM with a balloon`,
      );
    if (sizeBytes >= this.#ram.sizeBytes)
      throw refusedByDevices(
        `Balloon size (${sizeBytes}) greater than RAM (${this.#ram.sizeBytes})`,
        `desired_balloon is ${sizeBytes}: give less than the guest's RAM`,
      );
    balloon.resize(sizeBytes);
  }

  /** RAM that the guest has now: without what it says that it lends, which may be anything. */
  get memoryActualSize(): number {
    const heldBytes = findBalloon(this.#devices.virtio)?.heldBytes ?? 0;
    const mems = [...findMems(this.#devices.virtio).values()];
    const pluggedBytes = mems.reduce((sum, mem) => sum + mem.pluggedBytes, 0);
    return Math.max(0, this.#ram.sizeBytes + pluggedBytes - heldBytes);
  }

  /** Where the guest will find it. @throws VmmError as PciDevices.add */
  addDevice(wanted: WantedDevice): Promise<{ id: string; bdf: string }> {
    return this.#devices.add(wanted);
  }

  /** The guest is asked for it, no more. @throws VmmError as PciDevices.remove */
  async removeDevice(id: string): Promise<void> {
    this.#devices.remove(id);
  }

  /** @throws VmmError as PciDevices.resizeDisk */
  resizeDisk(id: string, sizeBytes: number): Promise<void> {
    return this.#devices.resizeDisk(id, sizeBytes);
  }

  get deviceTree(): DeviceTree {
    const { serial, debug } = this.#ports;
    const platform = platformNodes({ serial: !!serial, debugConsole: !!debug });
    return { ...platform, ...this.#devices.nodes };
  }

  /** Of each device that counts, by id: what it counted since the boot. */
  counters(): Record<string, Readonly<Record<string, number>>> {
    return this.#devices.counters();
  }

  /** By device id, what each found out of what its config leaves open. */
  get found(): ReadonlyMap<string, object> {
    return this.#devices.found;
  }

  /** What of that the next boot must not find otherwise. */
  get kept(): ReadonlyMap<string, object> {
    return this.#devices.kept;
  }

  /** Ends it, whatever the guest does. What it has written to its consoles is kept. */
  async shutdown(): Promise<void> {
    await this.#ports.flush();
    await this.#native.stop();
    await this.#devices.dispose();
    await this.#ports.close();
    await this.#memory.close();
  }
}

interface Parts {
  memory: GuestMemory;
  native: NativeVm;
  ports: Ports;
  platform: Platform;
  devices: PciDevices;
  ram: Ram;
  cpus: Cpus;
}

/** In the words that clients know. */
const refusedByDevices = (text: string, remedy: string): VmmError =>
  new VmmError(
    'invalid-config',
    'Error from device manager',
    new Error(text, { cause: new Error(remedy) }),
  );

/**
 * Finds what would keep the config from booting, as far as that can be known before: the files and
 * whether they fit.
 * @throws VmmError 'invalid-config'.
 */
export function checkFiles(config: VmConfig): void {
  native.prepareVm(); // a boot is about to follow
  const payload = openPayload(config);
  try {
    const { ramBytes } = describe(config);
    planBoot({ ...payload, ramBytes, cmdline: cmdline(config), tables: [], rsdpGpa: 0, cpuid: [] });
  } finally {
    closePayload(payload);
  }
}

/** One limiter a group and boot. */
const rateLimitGroups = ({ rate_limit_groups = [] }: VmConfig): Map<string, RateLimiter> =>
  new Map(
    rate_limit_groups.flatMap(({ id, rate_limiter_config }) => {
      const limiter = makeRateLimiter(rate_limiter_config);
      return limiter ? [[id, limiter]] : [];
    }),
  );

const cmdline = (config: VmConfig): string => config.payload?.cmdline ?? '';

/** The files that the guest starts from, open. */
function openPayload({ payload }: VmConfig) {
  const path = payload?.kernel;
  if (path === undefined)
    throw new VmmError('invalid-config', 'payload.kernel is missing: name a kernel to boot');
  const kernel = openKernel(path);
  try {
    const initramfs =
      payload?.initramfs === undefined ? undefined : new ImageFile('initramfs', payload.initramfs);
    return { kernel, initramfs };
  } catch (error) {
    kernel.file.close();
    throw error;
  }
}

function closePayload({ kernel, initramfs }: ReturnType<typeof openPayload>): void {
  kernel.file.close();
  initramfs?.close();
}

/** Of the host, which does not change: asked for once. */
let hostCpuid: CpuidEntry[] | undefined;

/** The facts that follow from config and host, which tables, CPUID and devices must agree on. */
function describe(config: VmConfig) {
  const { cpus, memory, numa: nodes = [] } = config;
  hostCpuid ??= native.supportedCpuid();
  const host = hostCpuid;
  const bits = physBits(host, cpus.max_phys_bits);
  const bytes = ramBytes(memory);
  const plugs = ramZones(memory).map((zone) => ({
    sizeBytes: zone.hotplug_size ?? 0,
    alignBytes: blockBytes(zone),
  }));
  const area = deviceArea(bits, bytes, plugs);
  const numa = new Numa(nodes, memory, area);
  const segments = segmentWindows(config, area, numa);
  const topology: Topology = cpus.topology
    ? {
        threadsPerCore: cpus.topology.threads_per_core,
        coresPerDie: cpus.topology.cores_per_die,
        diesPerPackage: cpus.topology.dies_per_package,
        packages: cpus.topology.packages,
      }
    : flatTopology(cpus.max_vcpus);
  const processors = Array.from({ length: cpus.max_vcpus }, (_, vcpu) => ({
    apicId: apicId(topology, vcpu),
    present: vcpu < cpus.boot_vcpus,
    node: numa.nodeOfCpu(vcpu),
  }));
  return { host, topology, physBits: bits, ramBytes: bytes, area, numa, segments, processors };
}

function plan(
  config: VmConfig,
  payload: ReturnType<typeof openPayload>,
  machine: ReturnType<typeof describe> & CpuFacts,
  {
    platform,
    devices,
    iommu,
  }: { platform: Platform; devices: PciDevices; iommu: VmIommu | undefined },
) {
  const { ramBytes, processors, segments, numa } = machine;
  const acpi = buildAcpi(dsdtTerms(platform.aml), {
    processors,
    segments: segments.length,
    numa: numa.localities > 0 ? numaTables(numa, devices) : undefined,
    iommu: iommuTables(iommu, devices),
  });
  return planBoot({
    ...payload,
    cmdline: cmdline(config),
    ramBytes,
    tables: [acpi, buildSmbios(config.platform)],
    rsdpGpa: acpi.gpa,
    cpuid: vcpuCpuid(config.cpus, machine, 0, config.cpus.boot_vcpus),
  });
}

function iommuTables(iommu: VmIommu | undefined, devices: PciDevices): IommuTables | undefined {
  const place = devices.placeOf(IOMMU_ID);
  return iommu && place && { ...place, ranges: iommu.ranges };
}

const numaTables = (numa: Numa, devices: PciDevices): NumaTables => ({
  localities: numa.localities,
  distance: (from, to) => numa.distance(from, to),
  memory: numa.memory,
  initiators: numa.initiators.flatMap(({ id, node }) => {
    const place = devices.placeOf(id);
    return place ? [{ node, ...place }] : [];
  }),
});

function onEvent(event: VmEvent, { onReset, onError }: VmHooks): void {
  if (event.type === 'triple-fault') onReset();
  else onError(new Error(event.message));
}
