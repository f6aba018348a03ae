/** What of the native core (native.ts) is about sockets between guest and host. */
import type { Virtqueue } from './native.ts';

export interface VsockEngineOptions {
  /** Its thread is called so, of which the kernel shows 15 bytes. */
  id: string;
  /** The guest's, 3 to 2^32 - 2. */
  cid: number;
  /** Where clients come in, non-blocking. Borrowed for `start`; nobody else may take clients then. */
  listener: number;
  /** What the guest reaches as port 5 of the host listens at `${socketPath}_5`. */
  socketPath: string;
  /** How long a client may take to say which port it wants. */
  greetingTimeoutMs: number;
  /** The host keeps connections from being made; called for the first of a burst. */
  onWarning(message: string): void;
}

/** The data plane of virtio-vsock, VIRTIO 1.2 §5.10.6: one thread, and no decisions. */
export interface VsockEngine {
  /** Takes both queues over for good. Once. @throws SystemError if the host has no more to give. */
  start(rx: Virtqueue, tx: Virtqueue): void;
  /** Resolves when nothing moves any more. Connections stay, and clients wait, until `resume`. */
  pause(): Promise<void>;
  resume(): void;
  /** Resolves when every connection is closed and the thread has ended. Idempotent. */
  stop(): Promise<void>;
}
