/**
 * The common configuration of a virtio function: features, status and the set-up of queues. VIRTIO
 * 1.2 §4.1.4.3; the life of a device is §3.1. The registers hold what the driver says, and only in
 * the part of its life in which it may say it: features until FEATURES_OK, vectors and queues until
 * DRIVER_OK. After that nothing changes before a reset, so what was checked stays true.
 */
import type { AccessHandler } from '../../native.ts';
import { type Register, RegisterFile } from '../registers.ts';

/** No interrupt for this. §4.1.5.1.2 */
const NO_VECTOR = 0xffff;

/** Device status, §2.1. */
const STATUS = {
  acknowledge: 0x01,
  driver: 0x02,
  driverOk: 0x04,
  featuresOk: 0x08,
  needsReset: 0x40,
  failed: 0x80,
} as const;

/** What the driver says of itself; the device only looks on. */
const REMARKS = STATUS.acknowledge | STATUS.driver | STATUS.failed;

/** Features come in words of 32, by the two `select` registers. */
const FEATURE_WORDS = 2;

/** A physical address has at most 52 bits: beyond them is no RAM, wherever exactly. */
const GPA_END = 2 ** 52;

/** A part of a queue, whose address the driver writes in two halves. */
class QueuePart {
  low = 0;
  high = 0;

  get gpa(): number {
    return Math.min(this.high * 2 ** 32 + this.low, GPA_END);
  }

  /** The same behind an IOMMU, which has addresses of 64 bits. */
  get iova(): bigint {
    return (BigInt(this.high) << 32n) | BigInt(this.low);
  }

  clear(): void {
    this.low = 0;
    this.high = 0;
  }
}

/** What the driver has said of one queue. */
export class QueueSetup {
  readonly sizeMax: number;
  readonly desc = new QueuePart();
  readonly avail = new QueuePart();
  readonly used = new QueuePart();
  size: number;
  vector = NO_VECTOR;
  enabled = false;

  constructor(sizeMax: number) {
    this.sizeMax = sizeMax;
    this.size = sizeMax;
  }

  clear(): void {
    for (const part of [this.desc, this.avail, this.used]) part.clear();
    this.size = this.sizeMax;
    this.vector = NO_VECTOR;
    this.enabled = false;
  }
}

export interface CommonConfigOptions {
  /** All that is offered, the transport's own included. */
  features: bigint;
  /** Those of them that a driver has to accept. */
  required: bigint;
  /** The most entries of each queue, powers of two. */
  queueSizes: readonly number[];
  /** How many interrupt vectors there are to choose from. */
  vectorCount: number;
  /** The driver is ready: within its write. */
  onDriverOk(): void;
  /** Resolves when the device is as it was at first. */
  onReset(): Promise<void>;
}

export class CommonConfig implements AccessHandler {
  readonly queues: readonly QueueSetup[];
  readonly #options: CommonConfigOptions;
  readonly #registers: RegisterFile;
  readonly #offered: Uint32Array;
  readonly #accepted = new Uint32Array(FEATURE_WORDS);
  #deviceFeatureSelect = 0;
  #driverFeatureSelect = 0;
  #queueSelect = 0;
  #configVector = NO_VECTOR;
  #status = 0;
  #generation = 0;
  #resetting: Promise<void> | undefined;

  constructor(options: CommonConfigOptions) {
    this.#options = options;
    this.#offered = Uint32Array.of(Number(options.features & 0xffff_ffffn), high(options.features));
    this.queues = options.queueSizes.map((sizeMax) => new QueueSetup(sizeMax));
    this.#registers = new RegisterFile([
      ...this.#deviceRegisters(),
      ...this.#queueRegisters(),
      ...this.#addressRegisters(),
    ]);
  }

  get configVector(): number {
    return this.#configVector;
  }

  /** Whether a driver has shown itself since the last reset, and none is under way. */
  get isDriven(): boolean {
    return this.#status !== 0 && !this.#resetting;
  }

  /** What the driver accepted; final once it has said FEATURES_OK. */
  get features(): bigint {
    const [low = 0, high = 0] = this.#accepted;
    return (BigInt(high) << 32n) | BigInt(low);
  }

  /** Resolves when no reset is under way. */
  async settled(): Promise<void> {
    await this.#resetting;
  }

  /** Returns whether the driver is to be told: it is not before DRIVER_OK, §2.1.2. */
  needsReset(): boolean {
    this.#status |= STATUS.needsReset;
    return this.#has(STATUS.driverOk);
  }

  /** The device's own configuration has changed: a driver that reads it in parts sees that. */
  configChanged(): void {
    this.#generation = (this.#generation + 1) & 0xff;
  }

  read(offset: number, sizeBytes: number): number {
    return this.#registers.read(offset, sizeBytes);
  }

  /** A reset takes its time, and until the status says that it is over the driver has to wait. */
  write(offset: number, sizeBytes: number, value: number): void {
    if (!this.#resetting) this.#registers.write(offset, sizeBytes, value);
  }

  #deviceRegisters(): Register[] {
    return [
      {
        name: 'device_feature_select',
        offset: 0,
        sizeBytes: 4,
        read: () => this.#deviceFeatureSelect,
        write: (value) => {
          this.#deviceFeatureSelect = value;
        },
      },
      {
        name: 'device_feature',
        offset: 4,
        sizeBytes: 4,
        read: () => this.#offered[this.#deviceFeatureSelect] ?? 0,
      },
      {
        name: 'driver_feature_select',
        offset: 8,
        sizeBytes: 4,
        read: () => this.#driverFeatureSelect,
        write: (value) => {
          this.#driverFeatureSelect = value;
        },
      },
      {
        name: 'driver_feature',
        offset: 12,
        sizeBytes: 4,
        read: () => this.#accepted[this.#driverFeatureSelect] ?? 0,
        write: (value) => this.#acceptFeatures(value),
      },
      {
        name: 'config_msix_vector',
        offset: 16,
        sizeBytes: 2,
        read: () => this.#configVector,
        write: (value) => {
          if (!this.#has(STATUS.driverOk)) this.#configVector = this.#vector(value);
        },
      },
      { name: 'num_queues', offset: 18, sizeBytes: 2, read: () => this.queues.length },
      {
        name: 'device_status',
        offset: 20,
        sizeBytes: 1,
        read: () => this.#status,
        write: (value) => this.#writeStatus(value),
      },
      { name: 'config_generation', offset: 21, sizeBytes: 1, read: () => this.#generation },
    ];
  }

  #queueRegisters(): Register[] {
    return [
      {
        name: 'queue_select',
        offset: 22,
        sizeBytes: 2,
        read: () => this.#queueSelect,
        write: (value) => {
          this.#queueSelect = value;
        },
      },
      this.#queueRegister('queue_size', 24, {
        get: (queue) => queue?.size ?? 0,
        set: (queue, value) => {
          if (isPowerOfTwo(value) && value <= queue.sizeMax) queue.size = value;
        },
      }),
      this.#queueRegister('queue_msix_vector', 26, {
        get: (queue) => queue?.vector ?? NO_VECTOR,
        set: (queue, value) => {
          queue.vector = this.#vector(value);
        },
      }),
      this.#queueRegister('queue_enable', 28, {
        get: (queue) => Number(queue?.enabled ?? false),
        set: (queue, value) => {
          // Disabling is what a reset is for, §4.1.4.3.2.
          if (value === 1) queue.enabled = true;
        },
      }),
      // A kick's place, in units of the notify capability's multiplier: every queue has its own.
      { name: 'queue_notify_off', offset: 30, sizeBytes: 2, read: () => this.#queueNotifyOff() },
    ];
  }

  #addressRegisters(): Register[] {
    const half = (
      name: string,
      offset: number,
      part: 'desc' | 'avail' | 'used',
      end: 'low' | 'high',
    ) =>
      this.#queueRegister(
        name,
        offset,
        {
          get: (queue) => queue?.[part][end] ?? 0,
          set: (queue, value) => {
            queue[part][end] = value;
          },
        },
        4,
      );
    return [
      half('queue_desc low', 32, 'desc', 'low'),
      half('queue_desc high', 36, 'desc', 'high'),
      half('queue_driver low', 40, 'avail', 'low'),
      half('queue_driver high', 44, 'avail', 'high'),
      half('queue_device low', 48, 'used', 'low'),
      half('queue_device high', 52, 'used', 'high'),
    ];
  }

  /** A register of the selected queue. There may be none: then what is written goes nowhere. */
  #queueRegister(
    name: string,
    offset: number,
    field: {
      get(queue: QueueSetup | undefined): number;
      set(queue: QueueSetup, value: number): void;
    },
    sizeBytes: 2 | 4 = 2,
  ): Register {
    return {
      name,
      offset,
      sizeBytes,
      read: () => field.get(this.queues[this.#queueSelect]),
      write: (value) => {
        const queue = this.queues[this.#queueSelect];
        if (queue && !this.#has(STATUS.driverOk)) field.set(queue, value);
      },
    };
  }

  #queueNotifyOff(): number {
    return this.#queueSelect < this.queues.length ? this.#queueSelect : 0;
  }

  #has(bit: number): boolean {
    return (this.#status & bit) !== 0;
  }

  /** What names no vector of the table reads back as NO_VECTOR, by which a driver sees it. */
  #vector(value: number): number {
    return value < this.#options.vectorCount ? value : NO_VECTOR;
  }

  #acceptFeatures(value: number): void {
    if (this.#has(STATUS.featuresOk) || this.#driverFeatureSelect >= FEATURE_WORDS) return;
    this.#accepted[this.#driverFeatureSelect] = value;
  }

  /** Bits come and never go, §2.1.1, but for 0, which is a reset. The device's own are not set. */
  #writeStatus(value: number): void {
    if (value === 0) {
      this.#startReset();
      return;
    }
    this.#status |= value & REMARKS;
    if ((value & STATUS.featuresOk) !== 0 && this.#featuresFit()) this.#status |= STATUS.featuresOk;
    const ready = (value & STATUS.driverOk) !== 0 && this.#has(STATUS.featuresOk);
    if (!ready || this.#has(STATUS.driverOk)) return;
    this.#status |= STATUS.driverOk;
    this.#options.onDriverOk();
  }

  /** §2.2.1: nothing beyond the offer, and what §6.2 lets the device insist on. */
  #featuresFit(): boolean {
    const beyond = this.#accepted.some((word, i) => (word & ~(this.#offered[i] ?? 0)) !== 0);
    const { required } = this.#options;
    return !beyond && (this.features & required) === required;
  }

  /** The status keeps its value until the reset is over, §4.1.4.3.1; 0 says that nothing is on. */
  #startReset(): void {
    if (this.#status === 0) {
      this.#clear();
      return;
    }
    this.#resetting = this.#options.onReset().then(
      () => this.#clear(),
      () => this.#fail(),
    );
  }

  /** A device that cannot be reset says so, and the driver may try again. */
  #fail(): void {
    this.#resetting = undefined;
    this.#status |= STATUS.needsReset;
  }

  #clear(): void {
    this.#resetting = undefined;
    this.#status = 0;
    this.#accepted.fill(0);
    this.#deviceFeatureSelect = 0;
    this.#driverFeatureSelect = 0;
    this.#queueSelect = 0;
    this.#configVector = NO_VECTOR;
    for (const queue of this.queues) queue.clear();
  }
}

const high = (value: bigint): number => Number(value >> 32n);
const isPowerOfTwo = (value: number): boolean => value > 0 && (value & (value - 1)) === 0;
