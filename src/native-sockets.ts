/** What of the native core (native.ts) is about Unix sockets on the event loop. */

/** Handlers are called from the event loop, never from within a call of ours. */
export interface FdSocketOptions {
  /** Where bytes are read into; several sockets may share it. */
  into: Uint8Array;
  /**
   * So many bytes lie in `into` until this returns. `fds` came along with them and are now ours to
   * close; null if we have no descriptors left for some of them: then none was taken.
   */
  onData: (sizeBytes: number, fds?: number[] | null) => void;
  /** The peer sends no more; what we send it still reads. */
  onEnd: () => void;
  /** All that `write` kept is sent. */
  onDrain: () => void;
  /** The last: both sides have ended, or the peer went away, or `destroy` was called. */
  onClose: () => void;
}

/** A connected Unix stream socket on the event loop. After it has closed, calls do nothing. */
export interface FdSocket {
  /**
   * A string is Latin-1. False if the kernel did not take all: the rest is kept, however much, and
   * `onDrain` follows.
   */
  write(bytes: Uint8Array | string): boolean;
  /**
   * Sends bytes with descriptors, which stay ours. Nothing of it is kept: false, and nothing was
   * sent, if the kernel does not take it now.
   */
  sendFds(bytes: Uint8Array, fds: readonly number[]): boolean;
  /** Nothing more is written. */
  end(): void;
  /** Stops and starts reading. */
  pause(): void;
  resume(): void;
  destroy(): void;
}

export type FdListenerOptions = (
  | {
      /** A socket that listens; ours from now on. */
      fd: number;
    }
  | {
      path: string;
      /** A socket that nobody listens on any more gives way. */
      replaceStale?: boolean;
    }
) & {
  /** `fd` is the client, for `new FdSocket`. */
  onConnection: (fd: number) => void;
  /** There is no descriptor or memory for a client: it waits until `resume` is called. */
  onStall: () => void;
};

export interface FdListener {
  /** Borrowed, until `close`: whoever takes clients from it has it paused. */
  readonly fd: number;
  /** Clients wait until `resume`. */
  pause(): void;
  resume(): void;
  /** Idempotent. The file of the socket stays. */
  close(): void;
}
