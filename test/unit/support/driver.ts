/**
 * Plays the guest's driver of a virtio device: the whole way through PCI configuration space and the
 * BAR, as a guest would go it. Queues, kicks and interrupts are fakes (fake-host.ts), or, with `core`,
 * the addon's own, in guest RAM.
 */
import type { VirtioDevice } from '../../../src/devices/virtio/device.ts';
import { VirtioPci } from '../../../src/devices/virtio/transport-pci.ts';
import type { GuestMemory, Native, VirtqueueOptions } from '../../../src/native.ts';
import type { DmaSpace } from '../../../src/native-iommu.ts';
import { FakeChain, FakeEventFd, FakeVirtqueue, FakeVm, NO_MEMORY } from './fake-host.ts';

/** Offsets of the common configuration in the BAR, VIRTIO 1.2 §4.1.4.3, with their widths. */
export const REGISTERS = {
  deviceFeatureSelect: [0, 4],
  deviceFeature: [4, 4],
  driverFeatureSelect: [8, 4],
  driverFeature: [12, 4],
  configVector: [16, 2],
  queueCount: [18, 2],
  status: [20, 1],
  generation: [21, 1],
  queueSelect: [22, 2],
  queueSize: [24, 2],
  queueVector: [26, 2],
  queueEnable: [28, 2],
  queueNotifyOff: [30, 2],
  queueDescLow: [32, 4],
  queueDescHigh: [36, 4],
  queueAvailLow: [40, 4],
  queueAvailHigh: [44, 4],
  queueUsedLow: [48, 4],
  queueUsedHigh: [52, 4],
} as const;

export type RegisterName = keyof typeof REGISTERS;

export const ISR = 0x2000;
export const DEVICE_CONFIG = 0x4000;
export const NOTIFY = 0x6000;
export const MSIX_TABLE = 0x8000;
export const MSIX_PENDING = 0x4_8000;

export const ACKNOWLEDGE = 1;
export const DRIVER = 2;
export const DRIVER_OK = 4;
export const FEATURES_OK = 8;
export const NEEDS_RESET = 0x40;
export const FAILED = 0x80;
/** The status of a device that runs. */
export const RUNNING = ACKNOWLEDGE | DRIVER | FEATURES_OK | DRIVER_OK;

const COMMAND = 0x04;
const MEMORY_AND_MASTER = 0x6;
const MSIX_ENABLE = 0x8000;

export const NOTHING = new Uint8Array(0);

/** Where a driver puts the parts of a queue, if nothing else is said. */
export const ringsGpa = (queue: number): number => 0x1_0000 * (queue + 1);

export interface DriverOptions {
  /** To share an address space with other functions. */
  vm?: FakeVm;
  bar?: { width: 32 | 64; gpa: number };
  sharedMemoryGpa?: number;
  /** Puts it behind an IOMMU. */
  dma?: DmaSpace;
  /** Instead of fakes: whose queues `offer` and `request` know nothing of. */
  core?: { memory: GuestMemory; native: Pick<Native, 'EventFd' | 'Virtqueue'> };
}

export interface StartOptions {
  /** What to accept; all that is offered by default. */
  features?: bigint;
  /** Which queues to enable; all by default. */
  queues?: readonly number[];
  /** Whether each queue gets a vector, and the configuration vector 0. */
  vectors?: boolean;
}

export class Driver {
  readonly vm: FakeVm;
  readonly pci: VirtioPci;
  /** Every queue that the function ever built. */
  readonly built: FakeVirtqueue[] = [];
  readonly warnings: string[] = [];
  /** What the machine around it was told. */
  readonly events: string[] = [];
  readonly #device: VirtioDevice;

  /** The BAR answers; the device is as after power-on. */
  constructor(device: VirtioDevice, options: DriverOptions = {}) {
    this.#device = device;
    this.vm = options.vm ?? new FakeVm();
    const { built } = this;
    const fakes = {
      memory: NO_MEMORY,
      native: {
        EventFd: FakeEventFd,
        Virtqueue: class extends FakeVirtqueue {
          constructor(options: VirtqueueOptions) {
            super(options);
            built.push(this);
          }
        },
      },
    };
    this.pci = new VirtioPci({
      device,
      vm: this.vm,
      ...(options.core ?? fakes),
      bar: options.bar ?? { width: 64, gpa: 0xff_ff80_0000 },
      sharedMemoryGpa: options.sharedMemoryGpa,
      dma: options.dma,
      onWarning: (message) => this.warnings.push(message),
      onActivated: () => this.events.push('activated'),
      onReset: () => this.events.push('reset'),
    });
    this.config(COMMAND, 2, MEMORY_AND_MASTER);
  }

  /** A write to configuration space. */
  config(offset: number, sizeBytes: number, value: number): void {
    void this.pci.space.write(offset, sizeBytes, value);
  }

  /** Where the BAR is now. */
  get barGpa(): number {
    return this.pci.bars[0]?.gpa ?? 0;
  }

  /** An access to the BAR. */
  read(offset: number, sizeBytes: number): number {
    return this.vm.read(this.barGpa + offset, sizeBytes);
  }

  write(offset: number, sizeBytes: number, value: number): void {
    this.vm.write(this.barGpa + offset, sizeBytes, value);
  }

  get(register: RegisterName): number {
    const [offset, sizeBytes] = REGISTERS[register];
    return this.read(offset, sizeBytes);
  }

  set(register: RegisterName, value: number): void {
    const [offset, sizeBytes] = REGISTERS[register];
    this.write(offset, sizeBytes, value);
  }

  get status(): number {
    return this.get('status');
  }

  get offered(): bigint {
    const word = (select: number) => {
      this.set('deviceFeatureSelect', select);
      return BigInt(this.get('deviceFeature'));
    };
    return word(0) | (word(1) << 32n);
  }

  accept(features: bigint): void {
    for (const [select, word] of [features & 0xffff_ffffn, features >> 32n].entries()) {
      this.set('driverFeatureSelect', select);
      this.set('driverFeature', Number(word));
    }
  }

  /** Resets it and waits until that is over, as a driver has to. */
  async reset(): Promise<void> {
    this.set('status', 0);
    while (this.status !== 0) await new Promise((resolve) => setImmediate(resolve));
  }

  /** Up to FEATURES_OK. */
  negotiate(features = this.offered): void {
    this.set('status', ACKNOWLEDGE);
    this.set('status', ACKNOWLEDGE | DRIVER);
    this.accept(features);
    this.set('status', ACKNOWLEDGE | DRIVER | FEATURES_OK);
  }

  /** One queue, with vector `queue + 1`, as large as may be, its parts a page each. */
  setUpQueue(queue: number, { vector = queue + 1, gpa = ringsGpa(queue) } = {}): void {
    this.set('queueSelect', queue);
    this.set('queueVector', vector);
    for (const [i, part] of (['Desc', 'Avail', 'Used'] as const).entries()) {
      this.set(`queue${part}Low`, (gpa + 0x1000 * i) % 2 ** 32);
      this.set(`queue${part}High`, Math.floor((gpa + 0x1000 * i) / 2 ** 32));
    }
    this.set('queueEnable', 1);
  }

  /** The entry of each vector says "write `0x4000 + vector` to 0xfee00000"; all are unmasked. */
  enableMsix(): void {
    for (let vector = 0; vector <= this.#device.queueSizes.length; vector++) {
      const entry = MSIX_TABLE + 16 * vector;
      for (const [i, value] of [0xfee0_0000, 0, 0x4000 + vector, 0].entries())
        this.write(entry + 4 * i, 4, value);
    }
    const at = this.#device.config.length > 0 ? 0x98 : 0x88;
    this.config(at + 2, 2, MSIX_ENABLE);
  }

  /** The whole way from power-on, or from a reset, to a device that runs. */
  start(options: StartOptions = {}): void {
    const { vectors = true } = options;
    this.negotiate(options.features);
    if (vectors) this.enableMsix();
    if (vectors) this.set('configVector', 0);
    for (const queue of options.queues ?? this.#device.queueSizes.keys())
      this.setUpQueue(queue, vectors ? {} : { vector: 0xffff });
    this.set('status', RUNNING);
  }

  /** The queue of that number that was built last. */
  queue(n: number): FakeVirtqueue {
    const kick = this.kickOf(n);
    const queue = this.built.findLast(({ options }) => options.kick === kick);
    if (!queue) throw new Error(`Queue ${n} was never built`);
    return queue;
  }

  /** What KVM signals when the guest writes to the queue's notify register. */
  kickOf(n: number): FakeEventFd {
    return this.vm.kicks.get(this.barGpa + NOTIFY + 4 * n) as FakeEventFd;
  }

  kick(queue: number): void {
    this.write(NOTIFY + 4 * queue, 2, queue);
  }

  /** Makes a request available without a kick. */
  offer(queue: number, readable: Uint8Array, writableBytes: number): FakeChain {
    const chain = new FakeChain(readable, writableBytes);
    this.queue(queue).push(chain);
    return chain;
  }

  /** One request; the device must be started. Resolves to what it wrote. */
  request(queue: number, readable: Uint8Array, writableBytes: number): Promise<Uint8Array> {
    const chain = this.offer(queue, readable, writableBytes);
    this.kick(queue);
    return chain.done;
  }

  /** How often the vector has interrupted. */
  interrupts(vector: number): number {
    return this.vm.msis[vector]?.sent.length ?? 0;
  }
}
