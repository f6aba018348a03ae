/**
 * virtio-balloon: RAM that the guest lends back. VIRTIO 1.2 §5.5.
 *
 * Data plane: this file. Pages come in batches, and discarding them is a worker's task.
 */
import type { Static } from '@sinclair/typebox';
import { Writer } from '../../bytes.ts';
import type { Chain, Virtqueue } from '../../native.ts';
import { bool, iommuFields, object, size } from '../../schema.ts';
import type { DeviceContext } from '../device.ts';
import { type Activation, F_EVENT_IDX, F_INDIRECT_DESC, type VirtioDevice } from './device.ts';

export const BalloonConfig = object({
  ...iommuFields,
  size: size({ cli: { default: 0 } }),
  deflate_on_oom: bool(false),
  free_page_reporting: bool(false),
});
export type BalloonConfig = Static<typeof BalloonConfig>;

// Feature bits, §5.5.3.
const F_DEFLATE_ON_OOM = 1n << 2n;
const F_REPORTING = 1n << 5n;

/** Inflate and deflate, §5.5.2; then reporting, which Linux numbers without gaps. */
const QUEUE_SIZES = [128, 128];
const REPORTING_QUEUE_SIZE = 32;

// Config space, §5.5.4: pages that the guest is to lend, and those that it says it lends.
const NUM_PAGES = 0;
const ACTUAL = 4;
const CONFIG_BYTES = 8;

/** A page is 4 KiB, whatever the guest's are, §5.5.6; its number has 32 bits. */
const PAGE_BYTES = 4096;
const PAGE_NUMBER_BYTES = 4;

/** Most that is taken of a request; Linux puts 256 into one. The rest of it is not discarded. */
const PAGES_MAX = 4096;

type BalloonContext = Pick<DeviceContext, 'id' | 'discard' | 'onWarning'>;

export class Balloon implements VirtioDevice {
  readonly virtioId = 5;
  readonly features: bigint;
  readonly queueSizes: readonly number[];
  readonly config = new Uint8Array(CONFIG_BYTES);
  readonly #context: BalloonContext;
  readonly #served = new Set<Promise<void>>();
  #configChanged: (() => void) | undefined;

  constructor(config: BalloonConfig, context: BalloonContext) {
    this.#context = context;
    const onOom = config.deflate_on_oom ? F_DEFLATE_ON_OOM : 0n;
    const reporting = config.free_page_reporting ? F_REPORTING : 0n;
    this.features = F_INDIRECT_DESC | F_EVENT_IDX | onOom | reporting;
    this.queueSizes = reporting ? [...QUEUE_SIZES, REPORTING_QUEUE_SIZE] : QUEUE_SIZES;
    this.#write(NUM_PAGES, Math.floor(config.size / PAGE_BYTES));
  }

  /** Asks the guest to lend so much in all, in whole pages; it may take its time, or refuse. */
  resize(sizeBytes: number): void {
    this.#write(NUM_PAGES, Math.floor(sizeBytes / PAGE_BYTES));
    this.#configChanged?.();
  }

  /** What the guest says that it lends now, and it may say anything. */
  get heldBytes(): number {
    return new DataView(this.config.buffer).getUint32(ACTUAL, true) * PAGE_BYTES;
  }

  writeConfig(offset: number, sizeBytes: number, value: number): void {
    if (offset < ACTUAL) return;
    for (let i = 0; i < sizeBytes; i++) this.config[offset + i] = (value >>> (8 * i)) & 0xff;
  }

  activate({ queues: [inflate, deflate, reporting], configChanged }: Activation): void {
    this.#configChanged = configChanged;
    this.#serve(inflate, lentPages);
    // What it takes back, it has by touching it.
    deflate?.onKick(() => {
      for (let chain = deflate.take(); chain; chain = deflate.take()) chain.complete(0);
    });
    this.#serve(reporting, (chain) => chain.writableRanges());
  }

  /** One chain at a time: the host has a page back before the guest may have it again. */
  #serve(queue: Virtqueue | undefined, rangesOf: (chain: Chain) => Float64Array): void {
    let isServing = false;
    const serveAll = async (taken: Virtqueue): Promise<void> => {
      isServing = true;
      for (let chain = taken.take(); chain; chain = taken.take()) {
        await this.#discard(rangesOf(chain));
        chain.complete(0);
      }
      isServing = false;
    };
    queue?.onKick(() => {
      if (isServing) return;
      const served = serveAll(queue).finally(() => this.#served.delete(served));
      this.#served.add(served);
    });
  }

  async #discard(ranges: Float64Array): Promise<void> {
    const { id, discard, onWarning } = this.#context;
    try {
      await discard(ranges);
    } catch (error) {
      onWarning(`Balloon ${id}: The host did not take pages back: ${(error as Error).message}`);
    }
  }

  async pause(): Promise<void> {}

  resume(): void {}

  /** The guest has all of its pages again, §5.5.6: those that it touches come back as zeroes. */
  async reset(): Promise<void> {
    this.#configChanged = undefined;
    this.#write(ACTUAL, 0);
    await Promise.all(this.#served);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.reset();
  }

  #write(offset: number, value: number): void {
    this.config.set(new Writer(4).u32(0, value).bytes, offset);
  }
}

/** As pairs of address and length, in order and joined; the guest numbers pages as it likes. */
function lentPages(chain: Chain): Float64Array {
  const bytes = new Uint8Array(Math.min(chain.readableBytes, PAGES_MAX * PAGE_NUMBER_BYTES));
  const count = Math.floor(chain.read(bytes) / PAGE_NUMBER_BYTES);
  const pages = new Uint32Array(bytes.buffer, 0, count).sort();
  const ranges = new Float64Array(2 * count);
  let used = 0;
  let end = -1;
  for (const page of pages) {
    if (page > end) {
      ranges[used] = page * PAGE_BYTES;
      used += 2;
    }
    end = page + 1;
    ranges[used - 1] = end * PAGE_BYTES - (ranges[used - 2] ?? 0);
  }
  return ranges.subarray(0, used);
}
