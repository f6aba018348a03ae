/**
 * The devices of a booted VM on its PCI bus: made from the config, put into slots, paused and ended
 * together. Nothing here knows what any of them is, but for whether it needs a virtio transport.
 */
import { KIB, MIB } from '../bytes.ts';
import type { DeviceContext, FileMapping, PciFunction } from '../devices/device.ts';
import { type PciBus, SLOT_COUNT } from '../devices/pci/bus.ts';
import type { VirtioDevice } from '../devices/virtio/device.ts';
import { BAR_BYTES } from '../devices/virtio/pci-capabilities.ts';
import {
  sharedMemoryBarBytes,
  VirtioPci,
  type VirtioPciOptions,
} from '../devices/virtio/transport-pci.ts';
import { VmmError } from '../errors.ts';
import type { Vm } from '../native.ts';
import { RangeAllocator } from './allocator.ts';
import { type DeviceTree, functionNodes } from './device-tree.ts';
import { deviceId, type WantedDevice } from './devices.ts';
import type { OnEvent } from './events.ts';
import { type DeviceArea, type GpaRange, MEMORY } from './layout.ts';

/** As far apart BARs lie. A guest's firmware tables tell of the windows, not of this. */
const BAR_STEP = { 32: 512 * KIB, 64: 8 * MIB } as const;

/** Linux maps memory of its own by sections of so much. */
const WINDOW_STEP = 128 * MIB;

/** Slot 0 has the host bridge. */
const FIRST_SLOT = 1;

export interface PciDevicesOptions
  extends Pick<VirtioPciOptions, 'memory' | 'native'>,
    Omit<DeviceContext, 'id' | 'memory' | 'vm' | 'mapFile' | 'placeBar'> {
  vm: VirtioPciOptions['vm'] & Pick<Vm, 'mapMemory'>;
  bus: PciBus;
  area: DeviceArea;
  onEvent: OnEvent;
}

interface Attached {
  id: string;
  windows: GpaRange[];
  slot: number;
  device: VirtioDevice | PciFunction;
  pci: PciFunction;
  isVirtio: boolean;
}

export class PciDevices {
  readonly #options: PciDevicesOptions;
  readonly #bars: Readonly<Record<32 | 64, RangeAllocator>>;
  readonly #attached: Attached[] = [];
  /** By device id, what each found out of what its config leaves open. */
  readonly found = new Map<string, object>();
  /** What of that the next boot must not find otherwise. */
  readonly kept = new Map<string, object>();

  private constructor(options: PciDevicesOptions) {
    this.#options = options;
    this.#bars = {
      32: new RangeAllocator(MEMORY.pci32),
      64: new RangeAllocator(options.area.pci64),
    };
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
      for (const { device, slot } of assignSlots(made)) await devices.#attach(device, slot);
    } catch (error) {
      await devices.dispose();
      throw error;
    }
    return devices;
  }

  get all(): (VirtioDevice | PciFunction)[] {
    return this.#attached.map(({ device }) => device);
  }

  /** Whether one of them could not be told of another region of RAM. */
  get hasMostMemory(): boolean {
    const count = this.#options.memory.regions().length;
    return this.all.some(({ regionsMax = Number.POSITIVE_INFINITY }) => count >= regionsMax);
  }

  /** Resolves when all know where RAM is now. */
  async memoryChanged(): Promise<void> {
    await Promise.all(this.all.map((device) => device.memoryChanged?.()));
  }

  get nodes(): DeviceTree {
    return functionNodes(
      this.#attached.map(({ device: _, pci, ...rest }) => ({ ...rest, bars: pci.bars })),
    );
  }

  /** Of each device that counts, by id. */
  counters(): Record<string, Readonly<Record<string, number>>> {
    const counted = this.#attached.map(({ id, pci }) => [id, pci.counters?.()] as const);
    return Object.fromEntries(counted.flatMap(([id, counts]) => (counts ? [[id, counts]] : [])));
  }

  /** Resolves when no request is in flight anywhere. The vCPUs stand still meanwhile. */
  async pause(): Promise<void> {
    await Promise.all(this.#attached.map(({ pci }) => pci.pause()));
  }

  resume(): void {
    for (const { pci } of this.#attached) pci.resume();
  }

  /** Once the Vm has stopped, and before its RAM goes. Idempotent. */
  async dispose(): Promise<void> {
    await Promise.all(this.#attached.splice(0).map(({ pci }) => pci[Symbol.asyncDispose]()));
  }

  async #attach(wanted: WantedDevice, slot: number): Promise<void> {
    const { vm, bus, memory, console, rateLimitGroups, onWarning, blocks } = this.#options;
    const { kind, config } = wanted;
    const id = deviceId(wanted);
    const windows: GpaRange[] = [];
    const placeBar = (width: 32 | 64, sizeBytes: number) => this.#placeBar(id, width, sizeBytes);
    const device = await kind.create?.(config, {
      ...{ id, memory, rateLimitGroups, onWarning, console, vm, placeBar, blocks },
      mapFile: (mapping) => {
        const gpa = this.#mapFile(id, mapping);
        windows.push({ gpa, sizeBytes: mapping.sizeBytes });
        return gpa;
      },
    });
    if (!device) return;
    const isVirtio = !('space' in device);
    const pci = isVirtio ? await this.#carry(device, id, kind.barWidth ?? 64) : device;
    bus.add(slot, pci.space);
    this.#attached.push({ id, slot, windows, device, pci, isVirtio });
    if (kind.found) this.found.set(id, kind.found(device));
    if (kind.kept) this.kept.set(id, kind.kept(device));
  }
  /** The transport of a virtio device, which is disposed of if there can be none. */
  async #carry(device: VirtioDevice, id: string, width: 32 | 64): Promise<VirtioPci> {
    const { memory, vm, native, onWarning, onEvent } = this.#options;
    try {
      const bar = { width, gpa: this.#placeBar(id, width, BAR_BYTES) };
      const warn = (reason: string) => onWarning(`Device ${id}: ${reason}`);
      const tell = (event: 'activated' | 'reset') => () =>
        onEvent({ source: 'virtio-device', event, properties: { id } });
      const sharedMemoryGpa = this.#placeSharedMemory(device, id);
      return new VirtioPci({
        ...{ device, memory, vm, native, bar, sharedMemoryGpa, onWarning: warn },
        ...{ onActivated: tell('activated'), onReset: tell('reset') },
      });
    } catch (cause) {
      await device[Symbol.asyncDispose]();
      if (cause instanceof VmmError) throw cause;
      throw new VmmError('host', `The host cannot connect device ${id}`, cause);
    }
  }

  #placeBar(id: string, width: 32 | 64, sizeBytes: number): number {
    const step = Math.max(BAR_STEP[width], sizeBytes);
    const gpa = this.#bars[width].allocate(sizeBytes, step);
    if (gpa !== undefined) return gpa;
    throw noAddresses(id);
  }

  #placeSharedMemory({ sharedMemory }: VirtioDevice, id: string): number | undefined {
    if (!sharedMemory) return undefined;
    const sizeBytes = sharedMemoryBarBytes(sharedMemory.sizeBytes);
    const gpa = this.#bars[64].allocate(sizeBytes, Math.max(sizeBytes, BAR_STEP[64]));
    if (gpa !== undefined) return gpa;
    throw noAddresses(id);
  }

  #mapFile(id: string, mapping: FileMapping): number {
    const { memory, vm } = this.#options;
    const gpa = this.#bars[64].allocateLow(mapping.sizeBytes, WINDOW_STEP);
    if (gpa === undefined) throw noAddresses(id);
    try {
      memory.addRegion({ ...mapping, gpa, shared: true, thp: false });
      vm.mapMemory();
      return gpa;
    } catch (cause) {
      throw new VmmError('host', `The host cannot map the file of device ${id}`, cause);
    }
  }
}

const noAddresses = (id: string): VmmError =>
  new VmmError(
    'invalid-config',
    `No addresses are left for device ${id}: give the VM less memory or more cpus.max_phys_bits`,
  );

/** Slots that devices ask for are taken first; the others get the lowest free ones, in order. */
function assignSlots(wanted: readonly WantedDevice[]): { device: WantedDevice; slot: number }[] {
  const asked = wanted.map(({ config }) => (config as { pci_device_id?: number }).pci_device_id);
  const free = Array.from({ length: SLOT_COUNT }, (_, slot) => slot)
    .slice(FIRST_SLOT)
    .filter((slot) => !asked.includes(slot));
  return wanted.map((device, i) => {
    const slot = asked[i] ?? free.shift();
    if (slot !== undefined) return { device, slot };
    throw new VmmError(
      'invalid-config',
      'Could not find an available device slot on the PCI bus',
      new Error(`${device.at} finds every slot taken: give the VM fewer devices`),
    );
  });
}
