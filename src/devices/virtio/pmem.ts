/**
 * virtio-pmem: a host file mapped into the guest as persistent memory. VIRTIO 1.2 §5.19.
 *
 * Data plane: the mapping itself; this file serves the flush requests.
 */
import { closeSync, fstatSync } from 'node:fs';
import type { Static } from '@sinclair/typebox';
import { Writer } from '../../bytes.ts';
import { type Chain, native, type Virtqueue } from '../../native.ts';
import { bool, iommuFields, object, option, seedKey, size, text } from '../../schema.ts';
import type { DeviceContext } from '../device.ts';
import { type Activation, F_EVENT_IDX, F_INDIRECT_DESC, type VirtioDevice } from './device.ts';
import { openPmem, type PmemFile } from './pmem-file.ts';

export const PmemConfig = object({
  ...iommuFields,
  file: text(),
  /** The file's own size where it isn't given. */
  size: option(size()),
  discard_writes: bool(false),
  mergeable: option(bool(false, seedKey)),
});
export type PmemConfig = Static<typeof PmemConfig>;

const QUEUE_SIZE = 256;

// Config space, §5.19.4.
const START = 0;
const SIZE = 8;
const CONFIG_BYTES = 16;

// Requests, §5.19.6: what is asked for, and how it went; 32 bits each.
const REQUEST_FLUSH = 0;
const OK = 0;
const EIO = 1;

type PmemContext = Pick<DeviceContext, 'id' | 'onWarning' | 'mapFile'>;

export class Pmem implements VirtioDevice {
  readonly virtioId = 27;
  readonly features = F_INDIRECT_DESC | F_EVENT_IDX;
  readonly queueSizes = [QUEUE_SIZE];
  readonly config: Uint8Array;
  readonly #file: PmemFile;
  readonly #context: PmemContext;
  #requests: Virtqueue | undefined;
  #served: Promise<void> | undefined;
  #isClosed = false;

  /** @throws VmmError 'invalid-config' if the file cannot be used, 'host' if it cannot be mapped. */
  constructor(config: PmemConfig, context: PmemContext) {
    this.#context = context;
    this.#file = openPmem(config, context.id);
    const { fd, sizeBytes, access } = this.#file;
    try {
      const gpa = context.mapFile({
        ...{ fd, sizeBytes, mergeable: config.mergeable ?? false },
        ...{ privateCopy: access === 'private', readonly: access === 'readonly' },
      });
      this.config = new Writer(CONFIG_BYTES).u64(START, gpa).u64(SIZE, sizeBytes).bytes;
    } catch (error) {
      closeSync(fd);
      throw error;
    }
    if (access === 'readonly')
      this.#warn(`${config.file} may not be written: what the guest writes is dropped`);
  }

  /** @throws what the constructor would of the file. */
  static check(config: PmemConfig, at: string): void {
    closeSync(openPmem(config, at).fd);
  }

  activate({ queues: [requests] }: Activation): void {
    this.#requests = requests;
    requests?.onKick(() => {
      this.#served ??= this.#serve().finally(() => {
        this.#served = undefined;
      });
    });
  }

  /** One sync for all who wait: a guest may ask for hundreds at once. */
  async #serve(): Promise<void> {
    for (;;) {
      const chains = this.#takeAll();
      if (chains.length === 0) return;
      const flushes = chains.some((chain) => requestOf(chain) === REQUEST_FLUSH);
      const status = flushes ? await this.#flush() : OK;
      for (const chain of chains)
        chain.complete(chain.write(word(requestOf(chain) === REQUEST_FLUSH ? status : EIO)));
    }
  }

  #takeAll(): Chain[] {
    const chains: Chain[] = [];
    for (let chain = this.#requests?.take(); chain; chain = this.#requests?.take())
      chains.push(chain);
    return chains;
  }

  async #flush(): Promise<number> {
    const { fd, sizeBytes, access } = this.#file;
    if (access !== 'shared') return OK;
    try {
      await native.disks.sync(fd);
    } catch (error) {
      this.#warn(`A flush failed: ${(error as Error).message}`);
      return EIO;
    }
    const stat = fstatSync(fd);
    if (!stat.isFile() || stat.size >= sizeBytes) return OK;
    this.#warn(`Its file has only ${stat.size} bytes left of ${sizeBytes}`);
    return EIO;
  }

  /** The queue waits for the flush that is out. */
  async pause(): Promise<void> {}

  resume(): void {}

  async reset(): Promise<void> {
    this.#requests = undefined;
    await this.#served;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.reset();
    if (!this.#isClosed) closeSync(this.#file.fd);
    this.#isClosed = true;
  }

  #warn(message: string): void {
    this.#context.onWarning(`Persistent memory ${this.#context.id}: ${message}`);
  }
}

function requestOf(chain: Chain): number | undefined {
  const bytes = Buffer.alloc(4);
  return chain.read(bytes) === bytes.length ? bytes.readUInt32LE() : undefined;
}

const word = (value: number): Uint8Array => new Writer(4).u32(0, value).bytes;
