/**
 * The devices of a booted VM on its PCI buses: made from the config, put into slots, paused and
 * ended together, plugged and unplugged one by one. Nothing here knows what any of them is, but
 * for whether it needs a virtio transport.
 */
import { strict as assert } from 'node:assert';
import { KIB, MIB } from '../bytes.ts';
import type {
  DeviceContext,
  FileMapping,
  PassthroughHost,
  PciFunction,
  PciPlace,
} from '../devices/device.ts';
import { DEVICE_SLOTS, type PciBus } from '../devices/pci/bus.ts';
import type { PciHotplug } from '../devices/pci/hotplug.ts';
import type { VirtioDevice } from '../devices/virtio/device.ts';
import { BAR_BYTES } from '../devices/virtio/pci-capabilities.ts';
import {
  sharedMemoryBarBytes,
  VirtioPci,
  type VirtioPciOptions,
} from '../devices/virtio/transport-pci.ts';
import { VmmError } from '../errors.ts';
import type { Vm } from '../native.ts';
import type { DmaSpace } from '../native-iommu.ts';
import { highestFree, lowestFree } from './allocator.ts';
import { bdfOf, type DeviceTree, functionNodes } from './device-tree.ts';
import { deviceId, type WantedDevice } from './devices.ts';
import type { OnEvent } from './events.ts';
import { openDmaSpace, type VmIommu } from './iommu.ts';
import { type GpaRange, lineGsi } from './layout.ts';
import type { SharedPassthrough } from './passthrough.ts';

/** As far apart BARs lie. A guest's firmware tables tell of the windows, not of this. */
const BAR_STEP = { 32: 512 * KIB, 64: 8 * MIB } as const;

/** Linux maps memory of its own by sections of so much. */
const WINDOW_STEP = 128 * MIB;

/** For how long a guest may go on with a device that the host takes back. */
const RECLAIM_MS = 10_000;

export interface PciDevicesOptions
  extends Pick<VirtioPciOptions, 'native'>,
    Pick<
      DeviceContext,
      'memory' | 'rateLimitGroups' | 'onWarning' | 'blocks' | 'console' | 'resetGuest'
    > {
  vm: VirtioPciOptions['vm'] & Pick<Vm, 'mapMemory'>;
  passthrough: PassthroughHost & Pick<SharedPassthrough, 'memoryChanged' | 'discard'>;
  iommu?: VmIommu | undefined;
  /** By segment. */
  buses: readonly PciBus[];
  hotplug: Pick<PciHotplug, 'plug' | 'unplug' | 'forget'>;
  onEvent: OnEvent;
}

interface Attached {
  id: string;
  /** As the config calls its kind. */
  kind: string;
  windows: GpaRange[];
  place: PciPlace;
  device: VirtioDevice | PciFunction;
  pci: PciFunction;
  isVirtio: boolean;
  isRemovable: boolean;
  /** The guest has been asked for it. */
  isWanted: boolean;
  /** The guest has let go of it; resolves when nothing is left of it. */
  gone?: Promise<void>;
}

export class PciDevices {
  readonly #options: PciDevicesOptions;
  readonly #attached: Attached[] = [];
  /** Addresses of the device that is being made. */
  #reserved: GpaRange[] = [];
  /** By device id, what each found out of what its config leaves open. */
  readonly found = new Map<string, object>();
  /** What of that the next boot must not find otherwise. */
  readonly kept = new Map<string, object>();

  private constructor(options: PciDevicesOptions) {
    this.#options = options;
  }

  /**
   * Makes every device that can be made: of the others, a boot has refused those that a guest would
   * miss. If it rejects, nothing is left of any.
   * @throws VmmError 'invalid-config' or what a device says, 'host' if the host has no more to give.
   */
  static async attach(
    wanted: readonly WantedDevice[],
    options: PciDevicesOptions,
  ): Promise<PciDevices> {
    const devices = new PciDevices(options);
    try {
      const made = wanted.filter(({ kind }) => kind.create);
      for (const { device, place } of assignSlots(made))
        await devices.#attach(device, place, false);
    } catch (error) {
      await devices.dispose();
      throw error;
    }
    return devices;
  }

  get virtio(): VirtioDevice[] {
    return this.#attached.flatMap(({ device }) => ('virtioId' in device ? [device] : []));
  }

  /** Whether one of them could not be told of another region of RAM. */
  get hasMostMemory(): boolean {
    const count = this.#options.memory.regions().length;
    return this.virtio.some(({ regionsMax = Number.POSITIVE_INFINITY }) => count >= regionsMax);
  }

  /** Resolves when all know where RAM is now. */
  async memoryChanged(): Promise<void> {
    const { passthrough } = this.#options;
    const told = this.#attached.map(({ device }) => device.memoryChanged?.());
    await Promise.all([passthrough.memoryChanged(), ...told]);
  }

  get nodes(): DeviceTree {
    return functionNodes(this.#attached.map(({ pci, ...rest }) => ({ ...rest, bars: pci.bars })));
  }

  /** Where a device is; undefined if there is none of that id. */
  placeOf(id: string): PciPlace | undefined {
    return this.#attached.find((other) => other.id === id)?.place;
  }

  /** Of each device that counts, by id. */
  counters(): Record<string, Readonly<Record<string, number>>> {
    const counted = this.#attached.map(({ id, pci }) => [id, pci.counters?.()] as const);
    return Object.fromEntries(counted.flatMap(([id, counts]) => (counts ? [[id, counts]] : [])));
  }

  /**
   * Plugs a device into a running or paused VM, in the slot that its config names or the lowest
   * free one of its segment. If it rejects, nothing is left of it.
   * @throws VmmError 'conflict' if its id or slot is in use, or as `attach`.
   */
  async add(wanted: WantedDevice): Promise<{ id: string; bdf: string }> {
    const id = deviceId(wanted);
    if (this.#attached.some((other) => other.id === id)) throw idInUse(id);
    const segment = segmentOf(wanted);
    const taken = this.#attached
      .filter(({ place }) => place.segment === segment)
      .map(({ place }) => place.slot);
    const slot = slotOf(wanted) ?? DEVICE_SLOTS.find((slot) => !taken.includes(slot));
    if (slot === undefined) throw noSlot(wanted.at);
    if (taken.includes(slot)) throw slotInUse(wanted.at, slot);
    const place = { segment, slot };
    await this.#attach(wanted, place, true);
    if (this.#attached.at(-1)?.windows.length) await this.memoryChanged();
    this.#options.hotplug.plug(place);
    return { id, bdf: bdfOf(place) };
  }

  /**
   * Asks the guest for a device, which goes when the guest lets go of it. A second time asks again.
   * @throws VmmError 'not-found', or 'invalid-config' if it is one of those that stay.
   */
  remove(id: string): void {
    const device = this.#attached.find((other) => other.id === id);
    if (!device) throw unknownId(id);
    if (!device.isRemovable) throw notRemovable(device.kind);
    device.isWanted = true;
    if (!device.gone) this.#options.hotplug.unplug(device.place);
  }

  /**
   * The guest lets go of a slot. What the host did not ask for stays where it is: the VM is to have
   * what its config says, also after a reboot.
   */
  eject({ segment, slot }: PciPlace): void {
    const device = this.#attached.find(
      ({ place }) => place.segment === segment && place.slot === slot,
    );
    if (device?.isWanted && !device.gone) device.gone = this.#detach(device);
  }

  /**
   * Gives a disk another size, in bytes; its driver is told.
   * @throws VmmError 'not-found' if it is no disk of ours, or what the disk says.
   */
  async resizeDisk(id: string, sizeBytes: number): Promise<void> {
    const device = this.#attached.find((other) => other.id === id && !other.isWanted);
    if (!device?.pci.resizeDisk) throw unknownId(id);
    await device.pci.resizeDisk(sizeBytes);
  }

  /** Resolves when no request is in flight anywhere. The vCPUs stand still meanwhile. */
  async pause(): Promise<void> {
    await Promise.all(this.#attached.map(({ pci, gone }) => gone ?? pci.pause()));
  }

  resume(): void {
    for (const { pci, gone } of this.#attached) if (!gone) pci.resume();
  }

  /** Once the Vm has stopped, and before its RAM goes. Idempotent. */
  async dispose(): Promise<void> {
    const all = this.#attached.splice(0);
    this.#options.iommu?.domains.close(); // else its end would have them reach all memory again
    await Promise.all(all.map(({ pci, gone }) => gone ?? pci[Symbol.asyncDispose]()));
  }

  /** @param isPlugged the guest may be at work on the bus. */
  async #attach(wanted: WantedDevice, place: PciPlace, isPlugged: boolean): Promise<void> {
    const { vm, onEvent, passthrough, iommu } = this.#options;
    const { kind, config } = wanted;
    const dma = openDmaSpace(iommu, wanted, place, isPlugged);
    const id = deviceId(wanted);
    const windows: GpaRange[] = [];
    const bus = this.#busOf(place);
    const placeBar: PlaceBar = (width, sizeBytes) => this.#placeBar(id, bus, width, sizeBytes);
    try {
      const device = await kind.create?.(config, {
        ...this.#options,
        ...{ id, vm, placeBar, lineGsi: lineGsi(place.slot), iommu: iommu?.domains },
        blocksChanged: () => passthrough.memoryChanged(),
        discard: (ranges) => passthrough.discard(ranges),
        onReclaim: () => this.#reclaim(id),
        onPanic: (event) => onEvent({ source: 'guest', event: 'panic', properties: { event } }),
        mapFile: (mapping) => {
          if (isPlugged && this.hasMostMemory) throw tooMuchMemory(id);
          const window = this.#place(id, bus, mapping, isPlugged);
          this.#map(id, mapping, window, windows);
          return window.gpa;
        },
      });
      if (!device) return;
      const isVirtio = !('space' in device);
      // Linux gives a device that is plugged addresses above 4 GiB; below, segments have few.
      const width = isPlugged || place.segment > 0 ? 64 : (kind.barWidth ?? 64);
      const pci = isVirtio ? await this.#carry(device, id, width, placeBar, dma) : device;
      if (dma) await this.#putBehind(place, dma, pci);
      bus.add(place.slot, pci.space);
      const isRemovable = 'idPrefix' in kind;
      const attached = {
        ...{ id, kind: wanted.at, windows, place, device, pci },
        isVirtio,
        isRemovable,
      };
      this.#attached.push({ ...attached, isWanted: false });
      if (kind.found) this.found.set(id, kind.found(device));
      if (kind.kept) this.kept.set(id, kind.kept(device));
    } catch (error) {
      await this.#unmap(windows);
      throw error;
    } finally {
      this.#reserved = [];
    }
  }

  /** If it cannot be behind the IOMMU, it is disposed of. */
  async #putBehind(place: PciPlace, space: DmaSpace, pci: PciFunction): Promise<void> {
    const { follower } = pci;
    try {
      await this.#options.iommu?.add(
        place,
        pci instanceof VirtioPci ? { space, kick: () => pci.kickAll(), follower } : { follower },
      );
    } catch (error) {
      await pci[Symbol.asyncDispose]();
      throw error;
    }
  }

  /** The host waits for the device: a guest that does not let go of it in time loses it. */
  #reclaim(id: string): void {
    const device = this.#attached.find((other) => other.id === id);
    if (!device || device.gone) return;
    this.#options.onWarning(`Device ${id}: The host takes it back`);
    device.isWanted = true;
    this.#options.hotplug.unplug(device.place);
    const seize = () => {
      if (!device.gone && this.#attached.includes(device)) device.gone = this.#detach(device);
    };
    setTimeout(seize, RECLAIM_MS).unref();
  }

  async #detach({ id, place, pci, windows }: Attached): Promise<void> {
    const { hotplug, onWarning, onEvent, iommu } = this.#options;
    this.#busOf(place).remove(place.slot);
    pci.unplug();
    iommu?.remove(place);
    hotplug.forget(place);
    try {
      await pci[Symbol.asyncDispose]();
      await this.#unmap(windows);
      if (windows.length > 0) await this.memoryChanged();
    } catch (error) {
      onWarning(`Device ${id} did not end in good order: ${(error as Error).message}`);
    }
    this.found.delete(id);
    this.kept.delete(id);
    const at = this.#attached.findIndex((other) => other.pci === pci);
    if (at !== -1) this.#attached.splice(at, 1);
    const properties = { id, bdf: bdfOf(place) };
    onEvent({ source: 'vm', event: 'device-removed', properties });
  }

  /** The transport of a virtio device, which is disposed of if there can be none. */
  async #carry(
    device: VirtioDevice,
    id: string,
    width: 32 | 64,
    placeBar: PlaceBar,
    dma: DmaSpace | undefined,
  ): Promise<VirtioPci> {
    const { memory, vm, native, onWarning, onEvent } = this.#options;
    try {
      const bar = { width, gpa: placeBar(width, BAR_BYTES) };
      const warn = (reason: string) => onWarning(`Device ${id}: ${reason}`);
      const tell = (event: 'activated' | 'reset') => () =>
        onEvent({ source: 'virtio-device', event, properties: { id } });
      const shared = device.sharedMemory;
      const sharedMemoryGpa = shared && placeBar(64, sharedMemoryBarBytes(shared.sizeBytes));
      return new VirtioPci({
        ...{ device, memory, dma, vm, native, bar, sharedMemoryGpa, onWarning: warn },
        ...{ onActivated: tell('activated'), onReset: tell('reset') },
      });
    } catch (cause) {
      await device[Symbol.asyncDispose]();
      if (cause instanceof VmmError) throw cause;
      throw new VmmError('host', `The host cannot connect device ${id}`, cause);
    }
  }

  #busOf({ segment }: PciPlace): PciBus {
    const bus = this.#options.buses[segment];
    assert(bus, `there is no PCI segment ${segment}`);
    return bus;
  }

  #placeBar(id: string, bus: PciBus, width: 32 | 64, sizeBytes: number): number {
    const window = bus.window(width);
    const alignBytes = Math.max(BAR_STEP[width], sizeBytes);
    const gpa = highestFree(window, this.#taken(), { sizeBytes, alignBytes });
    if (gpa === undefined) throw noAddresses(id);
    this.#reserved.push({ gpa, sizeBytes });
    return gpa;
  }

  /** Where BARs are now, wherever the guest has put them, and files. */
  #taken(): GpaRange[] {
    const ranges = this.#attached.flatMap(({ pci, windows }) => [...pci.bars, ...windows]);
    return [...ranges, ...this.#reserved];
  }

  /**
   * The guest may be about to put a BAR into the lowest free addresses: what is plugged leaves it
   * some.
   */
  #place(id: string, bus: PciBus, mapping: FileMapping, isPlugged: boolean): GpaRange {
    const spareBytes = isPlugged ? WINDOW_STEP : 0;
    const gpa = lowestFree(bus.window(64), this.#taken(), {
      sizeBytes: spareBytes + mapping.sizeBytes,
      alignBytes: WINDOW_STEP,
    });
    if (gpa === undefined) throw noAddresses(id);
    return { gpa: gpa + spareBytes, sizeBytes: mapping.sizeBytes };
  }

  /** `windows` has it as soon as there is something to take away again. */
  #map(id: string, mapping: FileMapping, window: GpaRange, windows: GpaRange[]): void {
    const { memory, vm } = this.#options;
    try {
      memory.addRegion({ ...mapping, gpa: window.gpa, shared: true, thp: false });
      windows.push(window);
      this.#reserved.push(window);
      vm.mapMemory();
    } catch (cause) {
      throw new VmmError('host', `The host cannot map the file of device ${id}`, cause);
    }
  }

  async #unmap(windows: readonly GpaRange[]): Promise<void> {
    if (windows.length === 0) return;
    const { memory, vm } = this.#options;
    const emptied = windows.map(({ gpa }) => memory.removeRegion(gpa));
    vm.mapMemory();
    await Promise.all(emptied);
  }
}

type PlaceBar = DeviceContext['placeBar'];

const segmentOf = ({ config }: WantedDevice): number =>
  (config as { pci_segment?: number }).pci_segment ?? 0;

const slotOf = ({ config }: WantedDevice): number | undefined =>
  (config as { pci_device_id?: number }).pci_device_id;

const noAddresses = (id: string): VmmError =>
  new VmmError(
    'invalid-config',
    `No addresses are left for device ${id}: give the VM less memory or more cpus.max_phys_bits`,
  );

const tooMuchMemory = (id: string): VmmError =>
  new VmmError(
    'invalid-config',
    `A backend of another device knows no more ranges of memory than there are: device ${id} can ` +
      'be added when that device has been removed',
  );

const noSlot = (at: string): VmmError =>
  new VmmError(
    'invalid-config',
    'Could not find an available device slot on the PCI bus',
    new Error(`${at} finds every slot taken: give the VM fewer devices`),
  );

const slotInUse = (at: string, slot: number): VmmError =>
  new VmmError(
    'conflict',
    `Valid PCI device identifier but already used: ${slot}`,
    new Error(`${at}.pci_device_id is ${slot}: name a free slot, or none to be given one`),
  );

const idInUse = (id: string): VmmError =>
  new VmmError(
    'conflict',
    'Failed to validate config',
    new Error(`Identifier ${id} is not unique`, {
      cause: new Error(`The guest has not let go of ${id} yet: wait, or give another id`),
    }),
  );

const unknownId = (id: string): VmmError =>
  new VmmError(
    'not-found',
    'Error from device manager',
    new Error(`Failed to find device corresponding to the given identifier: ${id}`),
  );

const notRemovable = (kind: string): VmmError =>
  new VmmError(
    'invalid-config',
    'Error from device manager',
    new Error(`Not allowed to remove this type of device from the VM: ${kind}`),
  );

/** Slots that devices ask for are taken first; the others get the lowest free ones, in order. */
function assignSlots(wanted: readonly WantedDevice[]): { device: WantedDevice; place: PciPlace }[] {
  const asked = wanted.map((device) => ({ segment: segmentOf(device), slot: slotOf(device) }));
  const taken = new Map<number, Set<number>>();
  for (const { segment, slot } of asked) {
    const slots = taken.get(segment) ?? new Set();
    taken.set(segment, slot === undefined ? slots : slots.add(slot));
  }
  return wanted.map((device) => {
    const segment = segmentOf(device);
    const slots = taken.get(segment);
    const slot = slotOf(device) ?? DEVICE_SLOTS.find((slot) => !slots?.has(slot));
    if (slot === undefined) throw noSlot(device.at);
    slots?.add(slot);
    return { device, place: { segment, slot } };
  });
}
