/**
 * virtio-rng: entropy for the guest from a host file. VIRTIO 1.2 §5.4.
 *
 * Data plane: this file. A guest asks for a few hundred bytes now and then, so its requests are
 * served on the JS thread, away from its vCPUs; nothing here is worth a native engine.
 */
import { closeSync, constants, fstatSync, openSync, read } from 'node:fs';
import { promisify } from 'node:util';
import type { Static } from '@sinclair/typebox';
import { osError, VmmError } from '../../errors.ts';
import type { Virtqueue } from '../../native.ts';
import { iommuFields, object, text } from '../../schema.ts';
import type { DeviceContext } from '../device.ts';
import { type Activation, F_EVENT_IDX, F_INDIRECT_DESC, type VirtioDevice } from './device.ts';

/** Also what the guest gets where nothing is said: it always has this device. */
const RNG_DEFAULT_SRC = '/dev/urandom';

export const RngConfig = object(
  { ...iommuFields, src: text({ cli: { default: RNG_DEFAULT_SRC } }) },
  { default: { src: RNG_DEFAULT_SRC } },
);
export type RngConfig = Static<typeof RngConfig>;

const readFd = promisify(read);
const QUEUE_SIZE = 256;

/** Most that a request is given: overlapping descriptors can claim more than there is RAM. */
const REQUEST_BYTES_MAX = 64 * 1024;

/** What is read before a request is taken: as much as Linux asks for at a time. */
const AHEAD_BYTES = 64;

/** How long a source that has nothing is left alone, each time twice as long. */
const RETRY_MS = { min: 1, max: 1000 };

export class Rng implements VirtioDevice {
  readonly virtioId = 4;
  readonly features = F_INDIRECT_DESC | F_EVENT_IDX;
  readonly queueSizes = [QUEUE_SIZE];
  readonly config = new Uint8Array(0);
  readonly #src: string;
  readonly #fd: number;
  readonly #onWarning: DeviceContext['onWarning'];
  #requests: Virtqueue | undefined;
  #ahead: Uint8Array = new Uint8Array(0);
  #isServing = false;
  #retry: NodeJS.Timeout | undefined;
  #retryMs = RETRY_MS.min;
  #isClosed = false;

  /** @throws VmmError 'invalid-config' if the source can't be read, or might make us wait for it. */
  constructor({ src }: Pick<RngConfig, 'src'>, { onWarning }: Pick<DeviceContext, 'onWarning'>) {
    this.#src = src;
    this.#fd = openSource(src);
    this.#onWarning = onWarning;
  }

  /** @throws what the constructor would. */
  static check({ src }: Pick<RngConfig, 'src'>): void {
    closeSync(openSource(src));
  }

  activate({ queues: [requests] }: Activation): void {
    this.#requests = requests;
    requests?.onKick(() => this.#onRequests());
  }

  #onRequests(): void {
    clearTimeout(this.#retry);
    if (!this.#isServing) void this.#serve();
  }

  /**
   * One at a time: the process has four threads for file I/O. A request is taken when there are
   * bytes for it, as none may go back empty (§5.4.6.2); so a source that never has any holds up
   * neither a pause nor a reset.
   */
  async #serve(): Promise<void> {
    this.#isServing = true;
    while (this.#requests) {
      if (this.#ahead.length === 0) this.#ahead = await this.#read(AHEAD_BYTES);
      if (this.#ahead.length === 0) break;
      const queue = this.#requests;
      const chain = queue?.take();
      if (!chain) break;
      const bytes = await this.#take(Math.min(chain.writableBytes, REQUEST_BYTES_MAX));
      if (this.#requests === queue) chain.complete(chain.write(bytes)); // else reset while we read
    }
    this.#isServing = false;
    if (this.#isClosed) closeSync(this.#fd);
  }

  /** Fewer bytes if the source has no more now. */
  async #take(sizeBytes: number): Promise<Uint8Array> {
    const first = this.#ahead.subarray(0, sizeBytes);
    this.#ahead = this.#ahead.subarray(sizeBytes);
    if (first.length === sizeBytes) return first;
    return Buffer.concat([first, await this.#read(sizeBytes - first.length)]);
  }

  async #read(sizeBytes: number): Promise<Uint8Array> {
    const bytes = Buffer.allocUnsafe(sizeBytes);
    try {
      const { bytesRead } = await readFd(this.#fd, bytes, 0, sizeBytes, null);
      if (bytesRead === 0) this.#onWarning(`The entropy source ${this.#src} is at its end`);
      else this.#retryMs = RETRY_MS.min;
      return bytes.subarray(0, bytesRead);
    } catch (error) {
      const { code, message } = error as NodeJS.ErrnoException;
      if (code === 'EAGAIN') this.#retryLater();
      else this.#onWarning(`The entropy source ${this.#src} cannot be read: ${message}`);
      return bytes.subarray(0, 0);
    }
  }

  /** The driver has kicked for a request that waits, and will not again. */
  #retryLater(): void {
    clearTimeout(this.#retry);
    if (this.#requests) this.#retry = setTimeout(() => this.#onRequests(), this.#retryMs).unref();
    this.#retryMs = Math.min(2 * this.#retryMs, RETRY_MS.max);
  }

  /** A request is out for one read, which does not wait. */
  async pause(): Promise<void> {
    clearTimeout(this.#retry);
  }

  resume(): void {
    this.#onRequests();
  }

  async reset(): Promise<void> {
    clearTimeout(this.#retry);
    this.#requests = undefined;
  }

  /** A read still in flight on a closed fd would read whatever is opened there next. */
  async [Symbol.asyncDispose](): Promise<void> {
    await this.reset();
    if (this.#isClosed) return;
    this.#isClosed = true;
    if (!this.#isServing) closeSync(this.#fd);
  }
}

/** Without O_NONBLOCK, open(2) of a FIFO would wait for a writer, and the whole VMM with it. */
function openSource(path: string): number {
  const remedy = `rng.src is ${path}: name a character device or a file that can be read`;
  let fd: number;
  try {
    fd = openSync(path, constants.O_RDONLY | constants.O_NONBLOCK | constants.O_NOCTTY);
  } catch (cause) {
    throw unusable(osError(cause, remedy));
  }
  const stat = fstatSync(fd);
  if (stat.isCharacterDevice() || stat.isFile()) return fd;
  closeSync(fd);
  throw unusable(new Error('Not a character device or file', { cause: new Error(remedy) }));
}

/** In the words that clients know. */
const unusable = (cause: Error) =>
  new VmmError(
    'invalid-config',
    'Error from device manager',
    new Error('Cannot create virtio-rng device', { cause }),
  );
