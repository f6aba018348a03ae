/** What of the native core (native.ts) is about queues and RAM that another process serves. */

/** A range of guest RAM that another process can map. */
export interface SharedRegion {
  gpa: number;
  sizeBytes: number;
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
