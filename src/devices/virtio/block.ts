/**
 * virtio-blk: a disk for the guest, from an image file or a block device. VIRTIO 1.2 §5.2.
 *
 * Data plane: a native engine, one thread a queue; it decides nothing.
 */
import type { Static } from '@sinclair/typebox';
import { Writer } from '../../bytes.ts';
import { type BlockEngine, native } from '../../native.ts';
import type { DiskCounters, ImageFormat } from '../../native-disks.ts';
import type { RateLimiter } from '../../native-limits.ts';
import { makeRateLimiter } from '../../rate-limiter.ts';
import {
  bool,
  choice,
  iommuFields,
  list,
  object,
  option,
  RateLimiterConfig,
  seedKey,
  text,
  uint,
} from '../../schema.ts';
import type { DeviceContext } from '../device.ts';
import { type Activation, F_EVENT_IDX, F_INDIRECT_DESC, type VirtioDevice } from './device.ts';
import { DiskImage } from './disk-image.ts';
import { SECTOR_BYTES } from './image-file.ts';

export const DiskConfig = object({
  ...iommuFields,
  path: option(text()),
  readonly: bool(false),
  direct: bool(false),
  num_queues: uint(53, { default: 1 }),
  queue_size: uint(16, { default: 128 }),
  vhost_user: bool(false),
  vhost_socket: option(text({ cli: { key: 'socket' } })),
  rate_limit_group: option(text()),
  rate_limiter_config: option(RateLimiterConfig),
  disable_io_uring: bool(false, { cli: { key: '_disable_io_uring' } }),
  disable_aio: bool(false, { cli: { key: '_disable_aio' } }),
  serial: option(text()),
  queue_affinity: option(list(object({ queue_index: uint(16), host_cpus: list(uint(32)) }))),
  backing_files: bool(false),
  sparse: bool(true),
  image_type: choice(['FixedVhd', 'Qcow2', 'Raw', 'Vhdx', 'Unknown'], {
    default: 'Unknown',
    cli: { words: { vhd: 'FixedVhd', qcow2: 'Qcow2', raw: 'Raw', vhdx: 'Vhdx' } },
  }),
  lock_granularity: choice(['ByteRange', 'Full'], { default: 'ByteRange' }),
  wce: option(bool(true, seedKey)),
  poll_queue: option(bool(true, seedKey)),
});
export type DiskConfig = Static<typeof DiskConfig>;

// Feature bits, §5.2.3.
const F_SEG_MAX = 1n << 2n;
const F_RO = 1n << 5n;
const F_BLK_SIZE = 1n << 6n;
const F_FLUSH = 1n << 9n;
const F_TOPOLOGY = 1n << 10n;
const F_CONFIG_WCE = 1n << 11n;
const F_MQ = 1n << 12n;
const F_DISCARD = 1n << 13n;
const F_WRITE_ZEROES = 1n << 14n;

// Config space, §5.2.4. Offsets in bytes; capacity counts 512-byte sectors whatever the block size.
const CAPACITY = 0;
const SEG_MAX = 12;
const BLK_SIZE = 20;
const PHYSICAL_BLOCK_EXP = 24;
const ALIGNMENT_OFFSET = 25;
const MIN_IO_SIZE = 26;
const OPT_IO_SIZE = 28;
const WRITEBACK = 32;
const NUM_QUEUES = 34;
const MAX_DISCARD_SECTORS = 36;
const MAX_DISCARD_SEG = 40;
const DISCARD_SECTOR_ALIGNMENT = 44;
const MAX_WRITE_ZEROES_SECTORS = 48;
const MAX_WRITE_ZEROES_SEG = 52;
const WRITE_ZEROES_MAY_UNMAP = 56;
const CONFIG_BYTES = 60;

/** What the data plane takes of a chain: IOV_MAX. A longer one breaks its queue. */
const SEGMENTS_MAX = 1024;

/** Every chain has a header and a status besides its data. */
const EXTRA_DESCRIPTORS = 2;

/** §5.2.6.1, VIRTIO_BLK_T_GET_ID. */
const SERIAL_BYTES = 20;

type BlockContext = Pick<DeviceContext, 'id' | 'onWarning' | 'rateLimitGroups'>;

export class Block implements VirtioDevice {
  readonly virtioId = 2;
  readonly features: bigint;
  readonly queueSizes: readonly number[];
  readonly config: Uint8Array;
  /** What the image was found to be; not Unknown. */
  readonly imageType: ImageFormat;
  readonly #config: DiskConfig;
  readonly #context: BlockContext;
  readonly #image: DiskImage;
  /** A VHD has no way to give room back. */
  readonly #mayDiscard: boolean;
  /** Both outlive the engines: a driver's reset neither refills nor forgets. */
  readonly #limiter: RateLimiter | undefined;
  readonly #counters = new native.BlockCounters();
  #engine: BlockEngine | undefined;
  #configChanged = (): void => {};
  #isPaused = false;
  /** Until it is known what the driver took, it may be any. */
  #isCacheSettable = true;
  #preallocated: Promise<void> = Promise.resolve();

  /**
   * Whether a disk can be made of its image; if that is in use, it may not be so at the boot.
   * @throws VmmError 'invalid-config'.
   */
  static check(config: DiskConfig, at: string): void {
    void new DiskImage(config, at).close(); // it was only looked at
  }

  /** @throws VmmError 'invalid-config' or 'conflict' if the image cannot be used. */
  constructor(config: DiskConfig, context: BlockContext) {
    this.#config = config;
    this.#context = context;
    this.#image = new DiskImage(config, context.id);
    try {
      this.#image.open();
    } catch (error) {
      void this.#image.close();
      throw error;
    }
    this.imageType = this.#image.type;
    this.#mayDiscard = config.sparse && this.imageType !== 'FixedVhd';
    this.#limiter =
      config.rate_limit_group === undefined
        ? makeRateLimiter(config.rate_limiter_config)
        : context.rateLimitGroups.get(config.rate_limit_group);
    this.features = offered(config, this.#mayDiscard);
    this.queueSizes = Array<number>(config.num_queues).fill(config.queue_size);
    this.config = configSpace(config, this.#image);
    this.#resetWriteback();
    const { remainderBytes } = this.#image;
    if (remainderBytes > 0)
      this.#warn(`The guest does not see the last ${remainderBytes} bytes of its image`);
    if (!config.sparse && !config.readonly && this.imageType === 'Raw' && this.#image.stat.isFile())
      this.#preallocate();
  }

  /** §5.2.5: the cache mode is the only thing that a driver can set. */
  writeConfig(offset: number, sizeBytes: number, value: number): void {
    if (!this.#isCacheSettable || WRITEBACK < offset || WRITEBACK >= offset + sizeBytes) return;
    const isOn = ((value >>> (8 * (WRITEBACK - offset))) & 0xff) !== 0;
    this.config[WRITEBACK] = Number(isOn);
    this.#engine?.setWriteback(isOn);
  }

  activate({ features, queues, configChanged, needsReset }: Activation): void {
    this.#configChanged = configChanged;
    const { image_type, disable_io_uring, disable_aio, queue_affinity = [] } = this.#config;
    // A driver that cannot flush gets write-through, §5.2.5.2.
    this.#isCacheSettable = (features & F_FLUSH) !== 0n && (features & F_CONFIG_WCE) !== 0n;
    if ((features & F_FLUSH) === 0n) this.config[WRITEBACK] = 0;
    else if (!this.#isCacheSettable) this.#resetWriteback();
    try {
      this.#engine = new native.BlockEngine({
        id: this.#context.id,
        image: this.#image.handle,
        readonly: this.#config.readonly, // not the negotiated bit: the driver may ignore F_RO
        writeback: this.config[WRITEBACK] === 1,
        discard: this.#mayDiscard,
        keepRaw: image_type === 'Unknown' && ['Raw', 'FixedVhd'].includes(this.imageType),
        serial: this.#config.serial ?? defaultSerial(this.#image),
        io: disable_io_uring ? (disable_aio ? 'sync' : 'aio') : 'io_uring',
        hostCpus: this.queueSizes.map(
          (_, queue) =>
            queue_affinity.find(({ queue_index }) => queue_index === queue)?.host_cpus ?? [],
        ),
        limiter: this.#limiter,
        counters: this.#counters,
        onError: (message) => this.#warn(message),
      });
      this.#engine.start(queues);
    } catch (error) {
      needsReset(`The data plane does not start: ${(error as Error).message}`);
    }
  }

  async pause(): Promise<void> {
    this.#isPaused = true;
    await this.#engine?.pause();
  }

  resume(): void {
    this.#isPaused = false;
    this.#engine?.resume();
  }

  /** What lies beyond a smaller size is gone. §5.2.5: the driver reads the capacity again. */
  async resizeDisk(sizeBytes: number): Promise<void> {
    const engine = this.#engine;
    if (!this.#isPaused) await engine?.pause();
    try {
      await this.#image.resize(sizeBytes);
    } finally {
      // The driver may have reset it meanwhile.
      if (!this.#isPaused && this.#engine === engine) engine?.resume();
    }
    const capacity = this.#image.sizeBytes / SECTOR_BYTES;
    this.config.set(new Writer(8).u64(0, capacity).bytes, CAPACITY);
    this.#configChanged();
  }

  counters(): DiskCounters {
    return this.#counters.read();
  }

  async reset(): Promise<void> {
    await this.#engine?.stop();
    this.#engine = undefined;
    this.#isCacheSettable = true;
    this.#resetWriteback();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.reset();
    await this.#preallocated;
    await this.#image.close().catch(({ message }: Error) => {
      this.#warn(`Its image was not closed in good order: ${message}`);
    });
  }

  #resetWriteback(): void {
    this.config[WRITEBACK] = Number(this.#config.wce ?? true);
  }

  /** The guest may run meanwhile. Without the room, writes may fail later, as on a sparse disk. */
  #preallocate(): void {
    this.#preallocated = this.#image
      .preallocate()
      .catch(({ message }: Error) => this.#warn(`No room was set aside for its image: ${message}`));
  }

  #warn(message: string): void {
    this.#context.onWarning(`Disk ${this.#context.id}: ${message}`);
  }
}

function offered({ readonly, num_queues }: DiskConfig, mayDiscard: boolean): bigint {
  return (
    F_SEG_MAX |
    F_BLK_SIZE |
    F_FLUSH |
    F_TOPOLOGY |
    F_CONFIG_WCE |
    F_WRITE_ZEROES |
    (F_INDIRECT_DESC | F_EVENT_IDX) |
    (mayDiscard ? F_DISCARD : 0n) |
    (readonly ? F_RO : 0n) |
    (num_queues > 1 ? F_MQ : 0n)
  );
}

function configSpace({ queue_size, num_queues, sparse }: DiskConfig, image: DiskImage): Uint8Array {
  const { logicalBytes, physicalBytes, alignmentOffsetBytes, minIoBytes, optIoBytes } =
    image.geometry;
  return new Writer(CONFIG_BYTES)
    .u64(CAPACITY, image.sizeBytes / SECTOR_BYTES)
    .u32(SEG_MAX, Math.min(queue_size, SEGMENTS_MAX) - EXTRA_DESCRIPTORS)
    .u32(BLK_SIZE, logicalBytes)
    .u8(PHYSICAL_BLOCK_EXP, Math.log2(physicalBytes / logicalBytes))
    .u8(ALIGNMENT_OFFSET, alignmentOffsetBytes / logicalBytes)
    .u16(MIN_IO_SIZE, Math.min(minIoBytes / logicalBytes, 0xffff))
    .u32(OPT_IO_SIZE, optIoBytes / logicalBytes)
    .u16(NUM_QUEUES, num_queues)
    .u32(MAX_DISCARD_SECTORS, 0xffff_ffff)
    .u32(MAX_DISCARD_SEG, 1)
    .u32(DISCARD_SECTOR_ALIGNMENT, logicalBytes / SECTOR_BYTES)
    .u32(MAX_WRITE_ZEROES_SECTORS, 0xffff_ffff)
    .u32(MAX_WRITE_ZEROES_SEG, 1)
    .u8(WRITE_ZEROES_MAY_UNMAP, Number(sparse)).bytes;
}

/** The digits of device, device's own number and inode: the same file has the same serial. */
const defaultSerial = ({ stat: { dev, rdev, ino } }: DiskImage): string =>
  `${dev}${rdev}${ino}`.slice(0, SERIAL_BYTES);
