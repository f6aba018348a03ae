/**
 * A backend as a device sees it: it is there when the device is made, may go away at any time, and
 * is looked for until it is back.
 */
import { osError, VmmError } from '../../errors.ts';
import { Frontend, type FrontendOptions } from './frontend.ts';
import type { SharedMemory } from './shared-memory.ts';

/** From vm.boot on: a backend that was started just before may not listen yet. */
const OPEN_TIMEOUT_MS = 5000;
const OPEN_RETRY_MS = 20;

/** How long it is before a lost backend is looked for again: twice as long each time. */
const RETRY_MS_MIN = 50;
const RETRY_MS_MAX = 5000;

/** A path of sun_path, with the zero byte at its end. */
const PATH_BYTES_MAX = 107;

/** Nobody is there, or nobody has time yet. */
const ABSENT: readonly unknown[] = ['ENOENT', 'ECONNREFUSED', 'EAGAIN'];

export interface BackendPlace {
  /** Where it listens. */
  socket: string;
  /** How errors call that: `fs[0].socket`. */
  field: string;
  /** What the device is called: `virtio-fs`. */
  kind: string;
}

export interface BackendOptions extends BackendPlace {
  /** @throws Error, saying why the device cannot be served by this one. */
  check(frontend: Frontend): void;
  /** What it may put files into, if the device has any such. */
  sharedMemory?: SharedMemory | undefined;
  onConfigChanged(): void;
  onLost(reason: Error): void;
  onBack(frontend: Frontend): void;
}

export class Backend {
  readonly #options: BackendOptions;
  #isClosed = false;
  /** Ends the wait that is under way. */
  #cutShort = (): void => {};
  #frontend: Frontend | undefined;
  #retryMs = RETRY_MS_MIN;
  #since = 0;

  private constructor(options: BackendOptions) {
    this.#options = options;
  }

  /**
   * Resolves when the backend has answered who it is.
   * @throws VmmError 'invalid-config' if nobody listens, 'host' if who does is no fit backend.
   */
  static async open(options: BackendOptions): Promise<Backend> {
    const backend = new Backend(options);
    const late = Date.now() + OPEN_TIMEOUT_MS;
    for (;;) {
      try {
        backend.#adopt(await backend.#connect());
        return backend;
      } catch (error) {
        const isAbsent = ABSENT.includes((error as NodeJS.ErrnoException).code);
        if (!isAbsent || Date.now() > late) throw unusable(options, error as Error, isAbsent);
        await backend.#wait(OPEN_RETRY_MS);
      }
    }
  }

  /** Undefined while it is away. */
  get frontend(): Frontend | undefined {
    return this.#frontend;
  }

  /** Ends the connection; the backend is looked for again. Nothing happens if it is another's. */
  lose(frontend: Frontend, reason: Error): void {
    if (this.#frontend !== frontend) return;
    this.#frontend = undefined;
    frontend.close();
    if (this.#isClosed) return;
    this.#options.onLost(reason);
    void this.#seek();
  }

  /** For good. Idempotent. */
  close(): void {
    this.#isClosed = true;
    this.#cutShort();
    this.#frontend?.close();
    this.#frontend = undefined;
  }

  async #seek(): Promise<void> {
    // One that is lost as soon as it is found counts as not found.
    const lived = Date.now() - this.#since > RETRY_MS_MAX;
    this.#retryMs = lived ? RETRY_MS_MIN : Math.min(2 * this.#retryMs, RETRY_MS_MAX);
    for (; ; this.#retryMs = Math.min(2 * this.#retryMs, RETRY_MS_MAX)) {
      await this.#wait(this.#retryMs);
      if (this.#isClosed) return;
      const frontend = await this.#connect().catch(() => undefined);
      if (!frontend) continue;
      if (this.#isClosed) return frontend.close();
      this.#adopt(frontend);
      return this.#options.onBack(frontend);
    }
  }

  #wait(ms: number): Promise<void> {
    return new Promise((resolve) => {
      const timer = setTimeout(resolve, ms);
      this.#cutShort = () => {
        clearTimeout(timer);
        resolve();
      };
    });
  }

  #adopt(frontend: Frontend): void {
    this.#frontend = frontend;
    this.#since = Date.now();
  }

  async #connect(): Promise<Frontend> {
    let frontend: Frontend | undefined;
    let lost: Error | undefined;
    const options: FrontendOptions = {
      sharedMemory: this.#options.sharedMemory,
      onConfigChanged: () => {
        if (frontend && frontend === this.#frontend) this.#options.onConfigChanged();
      },
      onLost: (reason) => {
        lost = reason;
        if (frontend) this.lose(frontend, reason);
      },
    };
    frontend = await Frontend.connect(this.#options.socket, options);
    try {
      this.#options.check(frontend);
      if (lost) throw lost;
      return frontend;
    } catch (error) {
      frontend.close();
      throw error;
    }
  }
}

/** Whether a socket can lie there at all. @throws VmmError 'invalid-config'. */
export function checkPlace({ socket, field }: Pick<BackendPlace, 'socket' | 'field'>): void {
  const bytes = Buffer.byteLength(socket);
  if (bytes > 0 && bytes <= PATH_BYTES_MAX && !socket.includes('\0')) return;
  throw new VmmError(
    'invalid-config',
    'Failed to validate config',
    new Error(`Length of socket path (${bytes}) is not within 1 to ${PATH_BYTES_MAX}`, {
      cause: new Error(
        `${field} is ${socket.slice(0, PATH_BYTES_MAX)}: name a path of at most ${PATH_BYTES_MAX} bytes`,
      ),
    }),
  );
}

/** In the words that clients know. */
export function unusable(
  { socket, field, kind }: BackendPlace,
  error: Error,
  isAbsent = false,
): VmmError {
  const remedy = isAbsent
    ? `${field} is ${socket}: start the backend that listens there, or name another path`
    : `${field} is ${socket}: have a backend listen there that serves such a device`;
  const said = (error as NodeJS.ErrnoException).errno === undefined ? error : osError(error);
  const why = isAbsent
    ? `vhost-user: can't connect to peer: ${said.message}`
    : `vhost-user: ${said.message}`;
  return new VmmError(
    isAbsent ? 'invalid-config' : 'host',
    'Error from device manager',
    new Error(`Cannot create ${kind} device`, {
      cause: new Error(isAbsent ? 'Connection to socket failed' : 'The backend is of no use', {
        cause: new Error(why, { cause: new Error(remedy) }),
      }),
    }),
  );
}
