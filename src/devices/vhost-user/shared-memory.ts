/**
 * The memory that a device of a backend shares with its driver: parts of files come and go there as
 * the backend asks. What it asks for is checked; what cannot be is refused, and hurts nobody else.
 * Two generations of requests: the virtio-fs draft of 2020, and the vhost-user protocol's own.
 */
import { native } from '../../native.ts';
import type { FileWindow } from '../../native-vhost.ts';
import {
  BACKEND_REQUEST,
  decodeFsRanges,
  decodeMemoryRange,
  type MemoryRange,
  type Message,
  PROTOCOL,
} from './protocol.ts';

const REFUSED = 1;

type Act = (range: MemoryRange) => Promise<void>;

export class SharedMemory {
  /** Where the guest finds it. */
  readonly window: FileWindow;

  /** @throws SystemError if there are no addresses left for it. */
  constructor(sizeBytes: number) {
    this.window = new native.FileWindow(sizeBytes);
  }

  /**
   * What the backend is to be answered.
   * @param protocol are the features agreed on.
   * @throws ProtocolError if the request cannot be understood.
   */
  async serve(message: Message, protocol: bigint): Promise<number> {
    const { request, payload, fds } = message;
    const isDraft = (protocol & PROTOCOL.sharedMemory) === 0n;
    const act = (isDraft ? this.#draftAct(request, fds) : this.#act(request, fds)) ?? undefined;
    if (!act || (protocol & PROTOCOL.backendSendFd) === 0n) return REFUSED;
    const ranges = isDraft
      ? decodeFsRanges(payload, this.window.sizeBytes)
      : [decodeMemoryRange(payload)];
    try {
      for (const range of ranges) await act(range);
      return 0;
    } catch {
      return REFUSED;
    }
  }

  /** Nothing is left of what the backend has put there. */
  clear(): Promise<void> {
    return this.window.unmap(0, this.window.sizeBytes);
  }

  /** Idempotent. */
  close(): void {
    this.window.close();
  }

  #draftAct(request: number, fds: readonly number[]): Act | undefined {
    switch (request) {
      case BACKEND_REQUEST.fsMap:
        return this.#map(fds);
      case BACKEND_REQUEST.fsUnmap:
        return fds.length === 0 ? this.#unmap : undefined;
      case BACKEND_REQUEST.fsSync:
        return fds.length === 0 ? this.#sync : undefined;
      default:
        return undefined;
    }
  }

  #act(request: number, fds: readonly number[]): Act | undefined {
    switch (request) {
      case BACKEND_REQUEST.sharedMemoryMap:
        return this.#map(fds);
      case BACKEND_REQUEST.sharedMemoryUnmap:
        return fds.length === 0 ? this.#unmap : undefined;
      default:
        return undefined;
    }
  }

  #map([fd]: readonly number[]): Act | undefined {
    return fd === undefined ? undefined : (range) => this.window.map({ ...range, fd });
  }

  #unmap: Act = ({ offset, sizeBytes }) => this.window.unmap(offset, sizeBytes);
  #sync: Act = ({ offset, sizeBytes }) => this.window.sync(offset, sizeBytes);
}
