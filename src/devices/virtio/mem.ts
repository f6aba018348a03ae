/**
 * virtio-mem: RAM that the guest plugs and unplugs by the block. VIRTIO 1.2 §5.15.
 *
 * Data plane: this file. Unplugged blocks go back to the host on a worker.
 */
import { Reader, Writer } from '../../bytes.ts';
import type { Chain, Virtqueue } from '../../native.ts';
import type { DeviceContext, PluggableBlocks } from '../device.ts';
import { type Activation, F_EVENT_IDX, F_INDIRECT_DESC, type VirtioDevice } from './device.ts';

const QUEUE_SIZE = 128;

/** The node is told of, by its ACPI proximity domain. §5.15.3. */
const F_ACPI_PXM = 1n << 0n;

// Config space, §5.15.4.
const BLOCK_SIZE = 0;
const NODE_ID = 8;
const ADDR = 16;
const REGION_SIZE = 24;
const USABLE_REGION_SIZE = 32;
const PLUGGED_SIZE = 40;
const REQUESTED_SIZE = 48;
const CONFIG_BYTES = 56;

// Requests, §5.15.6: type, address, count of blocks.
const REQUEST_BYTES = 24;
const REQUEST_ADDR = 8;
const REQUEST_BLOCKS = 16;
const REQUEST = { plug: 0, unplug: 1, unplugAll: 2, state: 3 } as const;

/** Of a response; a state follows at `RESPONSE_STATE`. */
const RESPONSE = { ack: 0, nack: 1, error: 3 } as const;
const RESPONSE_BYTES = 10;
const RESPONSE_STATE = 8;
const STATE = { plugged: 0, unplugged: 1, mixed: 2 } as const;

interface Blocks {
  first: number;
  end: number;
}

type MemContext = Pick<DeviceContext, 'id' | 'memory' | 'blocksChanged' | 'onWarning'>;

export class Mem implements VirtioDevice {
  readonly virtioId = 24;
  readonly features: bigint;
  readonly queueSizes = [QUEUE_SIZE];
  readonly #blocks: PluggableBlocks;
  readonly #context: MemContext;
  readonly #config = new Writer(CONFIG_BYTES);
  #usableBytes: number;
  #requestedBytes: number;
  #pluggedBytes = 0;
  #served: Promise<void> | undefined;
  #configChanged: (() => void) | undefined;

  constructor(blocks: PluggableBlocks, context: MemContext) {
    const { gpa, regionBytes, blockBytes, usableBytes, requestedBytes, node } = blocks;
    this.features = F_INDIRECT_DESC | F_EVENT_IDX | (node === undefined ? 0n : F_ACPI_PXM);
    this.#blocks = blocks;
    this.#context = context;
    this.#usableBytes = usableBytes;
    this.#requestedBytes = requestedBytes;
    this.#config
      .u64(BLOCK_SIZE, blockBytes)
      .u16(NODE_ID, node ?? 0)
      .u64(ADDR, gpa)
      .u64(REGION_SIZE, regionBytes);
    this.#tell();
  }

  /** By block, whether it is plugged. */
  get #plugged(): Uint8Array {
    return this.#blocks.plugged;
  }

  get config(): Uint8Array {
    return this.#config.bytes;
  }

  get id(): string {
    return this.#context.id;
  }

  /** What the guest has of it now. */
  get pluggedBytes(): number {
    return this.#pluggedBytes;
  }

  /** Asks the guest to have so much of it, in blocks; it may take its time, or refuse. */
  resize(requestedBytes: number, usableBytes: number): void {
    this.#requestedBytes = requestedBytes;
    this.#usableBytes = usableBytes;
    this.#tell();
    this.#configChanged?.();
  }

  activate({ queues: [queue], configChanged }: Activation): void {
    this.#configChanged = configChanged;
    let isServing = false;
    const serveAll = async (taken: Virtqueue): Promise<void> => {
      isServing = true;
      for (let chain = taken.take(); chain; chain = taken.take())
        chain.complete(chain.write(await this.#answer(chain)));
      isServing = false;
    };
    queue?.onKick(() => {
      if (!isServing) this.#served = serveAll(queue);
    });
  }

  async #answer(chain: Chain): Promise<Uint8Array> {
    const bytes = new Uint8Array(REQUEST_BYTES);
    if (chain.read(bytes) < REQUEST_BYTES) return response(RESPONSE.error);
    const request = new Reader(bytes);
    const type = request.u16(0);
    if (type === REQUEST.unplugAll) return this.#unplugAll();
    const blocks = this.#blocksOf(request.u64(REQUEST_ADDR), request.u16(REQUEST_BLOCKS));
    if (!blocks) return response(RESPONSE.error);
    if (type === REQUEST.plug) return this.#plug(blocks);
    if (type === REQUEST.unplug) return this.#unplug(blocks);
    if (type === REQUEST.state) return response(RESPONSE.ack, this.#stateOf(blocks));
    return response(RESPONSE.error);
  }

  /** Undefined unless they are some, aligned, and usable. */
  #blocksOf(gpa: number, count: number): Blocks | undefined {
    const { gpa: start, blockBytes } = this.#blocks;
    const first = (gpa - start) / blockBytes;
    const end = first + count;
    const isUsable = first >= 0 && count > 0 && end * blockBytes <= this.#usableBytes;
    return Number.isSafeInteger(first) && isUsable ? { first, end } : undefined;
  }

  #stateOf({ first, end }: Blocks): number {
    const blocks = this.#plugged.subarray(first, end);
    if (!blocks.includes(0)) return STATE.plugged;
    return blocks.includes(1) ? STATE.mixed : STATE.unplugged;
  }

  /** What the host has not got for its devices, the guest does not get either. */
  async #plug(blocks: Blocks): Promise<Uint8Array> {
    const sizeBytes = (blocks.end - blocks.first) * this.#blocks.blockBytes;
    if (this.#stateOf(blocks) !== STATE.unplugged) return response(RESPONSE.error);
    if (this.#pluggedBytes + sizeBytes > this.#requestedBytes) return response(RESPONSE.nack);
    this.#plugged.fill(1, blocks.first, blocks.end);
    if (!(await this.#othersFollow())) {
      this.#plugged.fill(0, blocks.first, blocks.end);
      await this.#othersFollow();
      return response(RESPONSE.nack);
    }
    this.#pluggedBytes += sizeBytes;
    this.#tell();
    return response(RESPONSE.ack);
  }

  async #unplug(blocks: Blocks): Promise<Uint8Array> {
    if (this.#stateOf(blocks) !== STATE.plugged) return response(RESPONSE.error);
    this.#plugged.fill(0, blocks.first, blocks.end);
    await this.#othersFollow();
    await this.#discard(blocks);
    this.#pluggedBytes -= (blocks.end - blocks.first) * this.#blocks.blockBytes;
    this.#tell();
    return response(RESPONSE.ack);
  }

  async #unplugAll(): Promise<Uint8Array> {
    this.#plugged.fill(0);
    await this.#othersFollow();
    await this.#discard({ first: 0, end: this.#plugged.length });
    this.#pluggedBytes = 0;
    this.#tell();
    return response(RESPONSE.ack);
  }

  async #othersFollow(): Promise<boolean> {
    const { id, blocksChanged, onWarning } = this.#context;
    try {
      await blocksChanged();
      return true;
    } catch (error) {
      onWarning(`Device ${id}: Other devices do not follow: ${(error as Error).message}`);
      return false;
    }
  }

  async #discard({ first, end }: Blocks): Promise<void> {
    const { gpa, blockBytes } = this.#blocks;
    const { id, memory, onWarning } = this.#context;
    try {
      const range = [gpa + first * blockBytes, (end - first) * blockBytes];
      await memory.discard(Float64Array.from(range));
    } catch (error) {
      onWarning(`Device ${id}: The host did not take blocks back: ${(error as Error).message}`);
    }
  }

  #tell(): void {
    this.#config
      .u64(USABLE_REGION_SIZE, this.#usableBytes)
      .u64(PLUGGED_SIZE, this.#pluggedBytes)
      .u64(REQUESTED_SIZE, this.#requestedBytes);
  }

  async pause(): Promise<void> {}

  resume(): void {}

  /** Blocks stay as they are, §5.15.6.2: the next driver finds its memory plugged. */
  async reset(): Promise<void> {
    this.#configChanged = undefined;
    await this.#served;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.reset();
  }
}

const response = (type: number, state = 0): Uint8Array =>
  new Writer(RESPONSE_BYTES).u16(0, type).u16(RESPONSE_STATE, state).bytes;
