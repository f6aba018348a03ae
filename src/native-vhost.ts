/** What of the native core (native.ts) is about queues and memory that another process serves. */

/** A range of guest RAM that another process can map. */
export interface SharedRegion {
  gpa: number;
  sizeBytes: number;
  /** Nobody may write there. */
  readonly: boolean;
  /** Borrowed, as long as the GuestMemory has the range. */
  fd: number;
  fileOffset: number;
}

/** A virtqueue given away for good, by its addresses and eventfds. Its rings lie in RAM. */
export interface SharedQueue {
  readonly size: number;
  readonly descGpa: number;
  readonly availGpa: number;
  readonly usedGpa: number;
  /** What the driver signals, and what interrupts it. Borrowed until `close`. */
  readonly kickFd: number;
  readonly irqFd: number;
  /** Never waits, whatever the other process has done to the eventfd. */
  kick(): void;
  interrupt(): void;
  /** Idempotent. Whoever was given the eventfds keeps them. */
  close(): void;
}

/** Unix stream sockets as descriptors for `new FdSocket`, non-blocking and closed on exec. */
export interface NativeUnixStreams {
  /**
   * Never waits.
   * @throws SystemError ENOENT or ECONNREFUSED if nobody listens, EAGAIN if too many wait there.
   */
  connect(path: string): number;
  /** Both ends are the caller's. */
  pair(): [ours: number, theirs: number];
}

/** A part of a file that a guest is to see in a window. All numbers are multiples of 4 KiB. */
export interface WindowPart {
  /** In the window. */
  offset: number;
  sizeBytes: number;
  /** Borrowed until the promise settles. */
  fd: number;
  fileOffset: number;
  writable: boolean;
}

/**
 * Guest addresses where parts of files come and go. It is no RAM: devices do not reach it, and a
 * guest that touches what is not there loses its vCPU. Done on a worker, for files can be slow.
 */
export interface FileWindow {
  readonly sizeBytes: number;
  /** @throws SystemError EINVAL, ERANGE, ENODEV if it is no regular file, ENOSPC if too many. */
  map(part: WindowPart): Promise<void>;
  unmap(offset: number, sizeBytes: number): Promise<void>;
  /** What the guest wrote there is on its disk. */
  sync(offset: number, sizeBytes: number): Promise<void>;
  /** Nothing uses it but a Vm, as long as it has it. Idempotent. */
  close(): void;
}
