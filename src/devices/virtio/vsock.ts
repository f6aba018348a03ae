/**
 * virtio-vsock: sockets between guest and host, over one Unix socket. VIRTIO 1.2 §5.10.
 *
 * A client of the host connects to the socket and says which port of the guest it wants,
 * `CONNECT 1024\n`; what the guest reaches as port 5 of the host listens at the same path with `_5`.
 *
 * Data plane: a native engine with the connection table; it decides nothing.
 */
import { closeSync, lstatSync, statSync, unlinkSync } from 'node:fs';
import { dirname } from 'node:path';
import type { Static } from '@sinclair/typebox';
import { Writer } from '../../bytes.ts';
import { osError, VmmError } from '../../errors.ts';
import { native, type VsockEngine } from '../../native.ts';
import type { FdListener } from '../../native-sockets.ts';
import { iommuFields, object, text, uint } from '../../schema.ts';
import type { DeviceContext } from '../device.ts';
import { type Activation, F_EVENT_IDX, F_INDIRECT_DESC, type VirtioDevice } from './device.ts';

export const VsockConfig = object({
  ...iommuFields,
  cid: uint(32),
  socket: text({ cli: { aliases: ['sock'] }, wire: { aliases: ['sock'] } }),
});
export type VsockConfig = Static<typeof VsockConfig>;

/** Of packets to the guest, of packets from it, and of events, of which we have none. §5.10.2. */
const QUEUE_SIZES = [256, 256, 256];

/** Config space, §5.10.4. */
const GUEST_CID = 0;
const CONFIG_BYTES = 8;

/** A person may type it. */
const GREETING_TIMEOUT_MS = 60_000;

/** How long clients wait that the host has no descriptor for. */
const RETRY_MS = 100;

type VsockContext = Pick<DeviceContext, 'id' | 'onWarning'>;

export class Vsock implements VirtioDevice {
  readonly virtioId = 19;
  readonly features = F_INDIRECT_DESC | F_EVENT_IDX;
  readonly queueSizes = QUEUE_SIZES;
  readonly config: Uint8Array;
  readonly #options: VsockConfig;
  readonly #context: VsockContext;
  /** Takes clients as long as no driver does, and turns them away. */
  readonly #listener: FdListener;
  readonly #inode: number;
  #engine: VsockEngine | undefined;
  #isClosed = false;

  /**
   * What would keep the socket from being made; who listens there may change until a boot.
   * @throws VmmError 'invalid-config' or 'conflict'.
   */
  static check({ socket }: Pick<VsockConfig, 'socket'>): void {
    try {
      statSync(dirname(socket));
      if (lstatSync(socket, { throwIfNoEntry: false })?.isSocket() === false) throw IN_USE;
    } catch (cause) {
      throw unusable(cause as Error, socket);
    }
  }

  /** @throws VmmError 'invalid-config' or 'conflict' if there can be no socket at the path. */
  constructor(config: VsockConfig, context: VsockContext) {
    this.#options = config;
    this.#context = context;
    this.config = new Writer(CONFIG_BYTES).u64(GUEST_CID, config.cid).bytes;
    try {
      this.#listener = new native.FdListener({
        path: config.socket,
        replaceStale: true,
        onConnection: closeSync,
        onStall: () => void setTimeout(() => this.#turnAway(), RETRY_MS).unref(),
      });
    } catch (cause) {
      throw unusable(cause as Error, config.socket);
    }
    this.#inode = inodeOf(config.socket);
    process.on('exit', this.#unlink);
  }

  activate({ queues: [rx, tx], needsReset }: Activation): void {
    if (!rx || !tx) return;
    this.#listener.pause();
    this.#engine = new native.VsockEngine({
      id: this.#context.id,
      cid: this.#options.cid,
      listener: this.#listener.fd,
      socketPath: this.#options.socket,
      greetingTimeoutMs: GREETING_TIMEOUT_MS,
      onWarning: (message) => this.#context.onWarning(`Vsock ${this.#context.id}: ${message}`),
    });
    try {
      this.#engine.start(rx, tx);
    } catch (error) {
      this.#engine = undefined;
      this.#turnAway();
      needsReset(`The data plane does not start: ${(error as Error).message}`);
    }
  }

  async pause(): Promise<void> {
    await this.#engine?.pause();
  }

  resume(): void {
    this.#engine?.resume();
  }

  async reset(): Promise<void> {
    await this.#engine?.stop();
    this.#engine = undefined;
    this.#turnAway();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    if (this.#isClosed) return;
    this.#isClosed = true;
    await this.reset();
    this.#listener.close();
    process.off('exit', this.#unlink);
    this.#unlink();
  }

  #turnAway(): void {
    if (!this.#engine && !this.#isClosed) this.#listener.resume();
  }

  #unlink = (): void => {
    const { socket } = this.#options;
    try {
      // Somebody may have put another there.
      if (inodeOf(socket) === this.#inode) unlinkSync(socket);
    } catch (error) {
      this.#context.onWarning(`Socket ${socket} stays: ${(error as Error).message}`);
    }
  };
}

const inodeOf = (path: string): number => lstatSync(path, { throwIfNoEntry: false })?.ino ?? 0;

/** As bind(2) would say it. */
const IN_USE: NodeJS.ErrnoException = Object.assign(
  new Error('EADDRINUSE: address already in use, bind'),
  { code: 'EADDRINUSE', errno: -98 },
);

const REMEDIES: Readonly<Record<string, string>> = {
  EADDRINUSE: 'something else is there; remove it, or name another path',
  ENOENT: 'make the folder, or name a path in one that is there',
};

/** In the words that clients know. */
function unusable(cause: NodeJS.ErrnoException, socket: string): VmmError {
  const remedy = REMEDIES[cause.code ?? ''] ?? 'name a path where a socket can be made';
  return new VmmError(
    cause.code === 'EADDRINUSE' ? 'conflict' : 'invalid-config',
    'Error from device manager',
    new Error('Cannot create virtio-vsock backend', {
      cause: new Error('Error binding to the host-side Unix socket', {
        cause: osError(cause, `vsock.socket is ${socket}: ${remedy}`),
      }),
    }),
  );
}
