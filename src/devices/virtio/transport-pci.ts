/**
 * A virtio device as a PCI function, VIRTIO 1.2 §4.1: the registers by which a driver finds it,
 * sets its queues up and starts it. Kicks and interrupts are eventfds between KVM and whoever
 * serves the queues, so once a device runs, nothing of what it does comes through here.
 */
import { allOnes } from '../../bytes.ts';
import type {
  EventFd,
  GuestMemory,
  Later,
  LateWriteHandler,
  Native,
  Virtqueue,
  Vm,
} from '../../native.ts';
import type { DmaSpace } from '../../native-iommu.ts';
import type { FunctionBar, PciFunction } from '../device.ts';
import { ConfigSpace } from '../pci/config-space.ts';
import { Msix } from '../pci/msix.ts';
import { CommonConfig, type QueueSetup } from './common-config.ts';
import {
  F_ACCESS_PLATFORM,
  F_EVENT_IDX,
  F_INDIRECT_DESC,
  F_VERSION_1,
  type VirtioDevice,
} from './device.ts';
import {
  addSharedMemoryCapability,
  addVirtioCapabilities,
  BAR,
  BAR_BYTES,
  NOTIFY_MULTIPLIER,
  PARTS,
  SHARED_MEMORY_BAR,
} from './pci-capabilities.ts';

const VENDOR = 0x1af4;
const DEVICE_ID_BASE = 0x1040;
const REVISION = 1;

/** By device type: a network controller, a storage controller; the rest has none of its own. */
const CLASS_CODES: Readonly<Record<number, number>> = { 1: 0x020000, 2: 0x018000 };
const CLASS_OTHER = 0xffff00;

// ISR status, §4.1.4.5.
const ISR_QUEUE = 1;
const ISR_CONFIG = 2;

export interface VirtioPciOptions {
  device: VirtioDevice;
  memory: GuestMemory;
  /** Behind an IOMMU, what it reaches. */
  dma?: DmaSpace | undefined;
  vm: Pick<
    Vm,
    | 'claim'
    | 'release'
    | 'attachKick'
    | 'detachKick'
    | 'claimKick'
    | 'releaseKick'
    | 'attachWindow'
    | 'detachWindow'
    | 'msi'
  >;
  native: Pick<Native, 'EventFd' | 'Virtqueue'>;
  /** Where the BAR of `BAR_BYTES` lies at first. */
  bar: { width: 32 | 64; gpa: number };
  /** Where that of the device's shared memory does, if it has any. */
  sharedMemoryGpa?: number | undefined;
  onWarning(message: string): void;
  /** A driver has it running. */
  onActivated(): void;
  /** A driver that had it running has reset it. */
  onReset(): void;
}

/** The part of the BAR that one handler answers. */
interface Region {
  offset: number;
  sizeBytes: number;
  handler: LateWriteHandler;
}

export class VirtioPci implements LateWriteHandler, PciFunction {
  readonly space: ConfigSpace;
  readonly resizeDisk: ((sizeBytes: number) => Promise<void>) | undefined;
  readonly #options: VirtioPciOptions;
  readonly #device: VirtioDevice;
  readonly #common: CommonConfig;
  readonly #msix: Msix;
  readonly #regions: readonly Region[];
  /** Of the queues, by number: made once, for a driver may kick at any time. */
  readonly #kicks: EventFd[] = [];
  /** What is signalled by queues without a vector: a driver that polls finds it in the ISR. */
  readonly #polled: EventFd;
  /** From DRIVER_OK to reset; which activation a late call belongs to is told by identity. */
  #queues: readonly (Virtqueue | undefined)[] = [];
  #isr = 0;
  #barGpa: number;
  /** What has the BAR answer no more, where it does. */
  readonly #claimed: (() => void)[] = [];
  #isActive = false;
  /** The kicks that KVM signals by itself, and where. */
  readonly #attached = new Map<EventFd, number>();

  /** @throws SystemError if the host has no eventfd or interrupt left; nothing stays open. */
  constructor(options: VirtioPciOptions) {
    const { device, native, vm, bar, dma } = options;
    this.#options = options;
    this.#device = device;
    this.#barGpa = bar.gpa;
    this.resizeDisk = device.resizeDisk?.bind(device);
    // A driver that goes round its IOMMU would see guest RAM that others have hidden from it.
    const required = F_VERSION_1 | (dma ? F_ACCESS_PLATFORM : 0n);
    this.#common = new CommonConfig({
      features: device.features | required,
      required,
      queueSizes: device.queueSizes,
      vectorCount: device.queueSizes.length + 1,
      onDriverOk: () => this.#activate(),
      onReset: () => this.#resetByDriver(),
    });
    this.space = identify(device);
    this.space.addBar({
      index: BAR,
      sizeBytes: BAR_BYTES,
      ...bar,
      onMove: (gpa) => this.#moveBar(gpa),
    });
    addVirtioCapabilities(this.space, this, device.config.length > 0);
    this.#addSharedMemory();
    this.#polled = new native.EventFd();
    try {
      for (const _ of device.queueSizes) this.#kicks.push(new native.EventFd());
      this.#msix = new Msix(this.space, {
        vectorCount: device.queueSizes.length + 1,
        bar: BAR,
        tableOffset: PARTS.msixTable.offset,
        pendingOffset: PARTS.msixPending.offset,
        openEventFd: () => new native.EventFd(),
        openMsi: (irq) => vm.msi(irq),
      });
    } catch (error) {
      this.#closeEventFds();
      throw error;
    }
    this.#regions = this.#layOut();
  }

  get bars(): readonly FunctionBar[] {
    const { width } = this.#options.bar;
    return [{ index: BAR, width, sizeBytes: BAR_BYTES, gpa: this.#barGpa }];
  }

  counters(): Readonly<Record<string, number>> | undefined {
    return this.#device.counters?.();
  }

  /** An access to the BAR. */
  read(offset: number, sizeBytes: number): number {
    const region = this.#region(offset);
    return region ? region.handler.read(offset - region.offset, sizeBytes) : allOnes(sizeBytes);
  }

  write(offset: number, sizeBytes: number, value: number): Later<void> {
    const region = this.#region(offset);
    return region?.handler.write(offset - region.offset, sizeBytes, value);
  }

  /** Resolves when no request is in flight. The vCPUs stand still meanwhile. */
  async pause(): Promise<void> {
    await this.#common.settled();
    const queues = this.#queues.map((queue) => queue?.pause());
    await Promise.all([this.#device.pause(), ...queues]);
  }

  resume(): void {
    for (const queue of this.#queues) queue?.resume();
    this.#device.resume();
  }

  /** Whoever serves the queues looks at them, and at what the IOMMU maps. */
  kickAll(): void {
    for (const kick of this.#kicks) kick.signal();
  }

  /** KVM kicks nothing any more, either. */
  unplug(): void {
    this.#moveBar(undefined);
    const { device, vm } = this.#options;
    if (device.sharedMemory) vm.detachWindow(device.sharedMemory);
  }

  /** A Vm that has stopped took the BAR and the kicks with it. */
  async [Symbol.asyncDispose](): Promise<void> {
    await this.#common.settled();
    await this.#reset().catch(() => {}); // the reason has been told
    await this.#device[Symbol.asyncDispose]();
    await this.#msix.close();
    this.#closeEventFds();
  }

  #addSharedMemory(): void {
    const { device, vm, sharedMemoryGpa: gpa } = this.#options;
    const { sharedMemory: window } = device;
    if (!window || gpa === undefined) return;
    this.space.addBar({
      ...{ index: SHARED_MEMORY_BAR, width: 64, prefetchable: true, gpa },
      sizeBytes: sharedMemoryBarBytes(window.sizeBytes),
      onMove: (gpa) => {
        vm.detachWindow(window);
        try {
          if (gpa !== undefined) vm.attachWindow(gpa, window);
        } catch {
          // The guest has put it where something else is: it answers nowhere.
        }
      },
    });
    addSharedMemoryCapability(this.space, window.sizeBytes);
  }

  #closeEventFds(): void {
    for (const eventFd of [this.#polled, ...this.#kicks]) eventFd.close();
  }

  #layOut(): Region[] {
    const isr = {
      read: (offset: number, sizeBytes: number) => this.#readIsr(offset, sizeBytes),
      write: () => {},
    };
    const deviceConfig = {
      read: (offset: number, sizeBytes: number) => this.#readConfig(offset, sizeBytes),
      write: (offset: number, sizeBytes: number, value: number) =>
        this.#writeConfig(offset, sizeBytes, value),
    };
    const notify = {
      read: (_: number, sizeBytes: number) => allOnes(sizeBytes),
      write: this.#kick,
    };
    return [
      { ...PARTS.common, handler: this.#common },
      { ...PARTS.isr, handler: isr },
      { ...PARTS.device, handler: deviceConfig },
      { ...PARTS.notify, handler: notify },
      { ...PARTS.msixTable, handler: this.#msix.table },
      { ...PARTS.msixPending, handler: this.#msix.pending },
    ];
  }

  #region(at: number): Region | undefined {
    for (const region of this.#regions)
      if (at >= region.offset && at < region.offset + region.sizeBytes) return region;
    return undefined;
  }

  /** A driver without MSI-X polls it; reading clears it. */
  #readIsr(offset: number, sizeBytes: number): number {
    if (offset !== 0 || sizeBytes !== 1) return allOnes(sizeBytes);
    const isr = this.#isr | (this.#polled.take() ? ISR_QUEUE : 0);
    this.#isr = 0;
    return isr;
  }

  #readConfig(offset: number, sizeBytes: number): number {
    const { config } = this.#device;
    if (offset + sizeBytes > config.length) return allOnes(sizeBytes);
    let value = 0;
    for (let i = sizeBytes - 1; i >= 0; i--) value = value * 0x100 + (config[offset + i] ?? 0);
    return value;
  }

  /** Not before the driver has shown itself, §3.1.1: a reset would not undo that. */
  #writeConfig(offset: number, sizeBytes: number, value: number): void {
    if (offset + sizeBytes <= this.#device.config.length && this.#common.isDriven)
      this.#device.writeConfig?.(offset, sizeBytes, value);
  }

  /** Kicks that KVM does not take come here, like those through the access capability. */
  #kick = (offset: number): void => this.#kicks[offset / NOTIFY_MULTIPLIER]?.signal();

  /**
   * The guest may have chosen a place that is taken: then the BAR answers nowhere. What KVM refuses
   * of the kicks, though the place is free, arrives as an access.
   */
  #moveBar(gpa: number | undefined): void {
    this.#withdraw();
    if (gpa === undefined) return;
    this.#barGpa = gpa;
    try {
      this.#claim(gpa);
    } catch {
      this.#withdraw();
      return;
    }
    for (const [queue, kick] of this.#kicks.entries()) {
      if (queue === this.#device.sharedKick?.queue) continue;
      try {
        this.#options.vm.attachKick(kickGpa(gpa, queue), kick);
        this.#attached.set(kick, kickGpa(gpa, queue));
      } catch {
        // It is served all the same, if more slowly.
      }
    }
  }

  /** All of the BAR, or what is around a kick that a vCPU serves, and that. @throws SystemError */
  #claim(gpa: number): void {
    const { vm } = this.#options;
    const { sharedKick } = this.#device;
    const parts = sharedKick ? aroundKick(sharedKick.queue) : [{ offset: 0, sizeBytes: BAR_BYTES }];
    for (const { offset, sizeBytes } of parts) {
      const claim = { space: 'mmio', base: gpa + offset, sizeBytes } as const;
      vm.claim(claim, offset === 0 ? this : this.#from(offset));
      this.#claimed.push(() => vm.release(claim));
    }
    if (!sharedKick) return;
    const at = kickGpa(gpa, sharedKick.queue);
    vm.claimKick(at, this.#kicks[sharedKick.queue] ?? this.#polled, sharedKick.domains);
    this.#claimed.push(() => vm.releaseKick(at));
  }

  /** The BAR from there on. */
  #from(offset: number): LateWriteHandler {
    return {
      read: (at, sizeBytes) => this.read(offset + at, sizeBytes),
      write: (at, sizeBytes, value) => this.write(offset + at, sizeBytes, value),
    };
  }

  /** It answers nowhere. */
  #withdraw(): void {
    for (const [kick, gpa] of this.#attached) this.#options.vm.detachKick(gpa, kick);
    this.#attached.clear();
    for (const release of this.#claimed.splice(0)) release();
  }

  /** A device that cannot start has the driver reset it; it has no queues then. */
  #activate(): void {
    const features = this.#common.features & this.#device.features;
    const queues: (Virtqueue | undefined)[] = [];
    this.#queues = queues;
    const ifCurrent = (act: () => void) => {
      if (this.#queues === queues) act();
    };
    const needsReset = (reason: string) => ifCurrent(() => this.#needsReset(reason));
    try {
      for (const [n, setup] of this.#common.queues.entries()) {
        const onBroken = (reason: string) => needsReset(`Queue ${n} is broken: ${reason}`);
        queues.push(setup.enabled ? this.#openQueue(n, setup, features, onBroken) : undefined);
      }
      const configChanged = () => ifCurrent(() => this.#configChanged());
      this.#device.activate({ features, queues, configChanged, needsReset });
      this.#isActive = true;
      this.#options.onActivated();
    } catch (error) {
      for (const queue of queues) queue?.close();
      this.#needsReset(`It cannot start: ${(error as Error).message}`);
    }
  }

  #openQueue(
    n: number,
    { size, vector, desc, avail, used }: QueueSetup,
    features: bigint,
    onBroken: (reason: string) => void,
  ): Virtqueue {
    const { native, memory, dma } = this.#options;
    const address = ({ gpa, iova }: { gpa: number; iova: bigint }) => (dma ? iova : gpa);
    return new native.Virtqueue({
      ...{ memory, dma, size },
      descGpa: address(desc),
      availGpa: address(avail),
      usedGpa: address(used),
      indirect: (features & F_INDIRECT_DESC) !== 0n,
      eventIdx: (features & F_EVENT_IDX) !== 0n,
      kick: this.#kicks[n] ?? this.#polled,
      irq: this.#msix.irq(vector) ?? this.#polled,
      onBroken,
    });
  }

  #configChanged(): void {
    this.#common.configChanged();
    this.#tellDriver();
  }

  #needsReset(reason: string): void {
    if (this.#common.needsReset()) this.#tellDriver();
    this.#options.onWarning(reason);
  }

  /** A configuration change notification, §4.1.5.4; of a reset that is needed too, §2.1.2. */
  #tellDriver(): void {
    this.#isr |= ISR_CONFIG;
    this.#msix.irq(this.#common.configVector)?.signal();
  }

  async #resetByDriver(): Promise<void> {
    await this.#reset();
    if (this.#isActive) this.#options.onReset();
    this.#isActive = false;
  }

  /** The queues go first: the device gets no more requests, answers to old ones lead nowhere. */
  async #reset(): Promise<void> {
    for (const queue of this.#queues) queue?.close();
    this.#queues = [];
    try {
      await this.#device.reset();
    } catch (error) {
      this.#options.onWarning(`It cannot be reset: ${(error as Error).message}`);
      throw error;
    }
    this.#polled.take();
    this.#isr = 0;
  }
}

function identify({ virtioId }: VirtioDevice): ConfigSpace {
  const deviceId = DEVICE_ID_BASE + virtioId;
  return new ConfigSpace({
    vendorId: VENDOR,
    deviceId,
    classCode: CLASS_CODES[virtioId] ?? CLASS_OTHER,
    revision: REVISION,
    subsystemVendorId: VENDOR,
    subsystemId: deviceId,
  });
}

/** A BAR is a power of two. */
export const sharedMemoryBarBytes = (sizeBytes: number): number =>
  2 ** Math.ceil(Math.log2(sizeBytes));

/** What of the BAR is before and behind the register that a queue is kicked by. */
function aroundKick(queue: number): { offset: number; sizeBytes: number }[] {
  const kick = PARTS.notify.offset + NOTIFY_MULTIPLIER * queue;
  const end = kick + NOTIFY_MULTIPLIER;
  return [
    { offset: 0, sizeBytes: kick },
    { offset: end, sizeBytes: BAR_BYTES - end },
  ];
}

const kickGpa = (barGpa: number, queue: number): number =>
  barGpa + PARTS.notify.offset + NOTIFY_MULTIPLIER * queue;
