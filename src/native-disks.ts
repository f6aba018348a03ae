/** What of the native core (native.ts) is about open image files and block devices. */

/** What the host says of one. Sizes in bytes. */
export interface DiskGeometry {
  sizeBytes: number;
  /** The least that can be addressed. */
  logicalBytes: number;
  physicalBytes: number;
  /** Of the first physical block. */
  alignmentOffsetBytes: number;
  minIoBytes: number;
  /** 0 if there is no best size. */
  optIoBytes: number;
  /** What addresses, offsets and lengths of I/O must be multiples of; 1 unless direct. */
  directAlignBytes: number;
}

/** Every `fd` is borrowed for the call, or until the promise is settled. */
export interface NativeDisks {
  /**
   * Makes a file that was opened with O_NONBLOCK one for I/O, past the page cache if `direct`, and
   * asks what it is. @throws SystemError, EINVAL where the file system knows no direct I/O.
   */
  prepare(fd: number, direct: boolean): DiskGeometry;
  /**
   * Takes, or with `none` gives back, the lock of an open file on its first `sizeBytes`, on all of
   * it if 0. Returns false if another open file, of any process, has a lock against it.
   */
  lock(fd: number, lock: 'none' | 'shared' | 'exclusive', sizeBytes: number): boolean;
  /** Has room for all of a regular file set aside, on a worker. */
  preallocate(fd: number, sizeBytes: number): Promise<void>;
  /** Has all that was written to it on stable storage, also through mappings; on a worker. */
  sync(fd: number): Promise<void>;
}

export interface BlockEngineOptions {
  /** The thread of queue n is called `${id}_q${n}`, of which the kernel shows 15 bytes. */
  id: string;
  /** Borrowed until `stop` has resolved. */
  fd: number;
  /** A multiple of 512. */
  sizeBytes: number;
  /** Nothing is written, whatever was negotiated. */
  readonly: boolean;
  writeback: boolean;
  /** Off: discards are answered as not supported. */
  discard: boolean;
  /** Writes that would make the first sector the header of another image format fail. */
  keepRaw: boolean;
  /** At most 20 bytes. */
  serial: string;
  /** What O_DIRECT wants buffers, offsets and lengths to be multiples of; 1 without it. */
  alignBytes: number;
  /** The first to try; what the host has not got gives way to the next in this order. */
  io: 'io_uring' | 'aio' | 'sync';
  /** Where the thread of queue n may run; anywhere if absent or empty. */
  hostCpus: readonly (readonly number[])[];
  /** An operation on the file failed; called for the first of a burst. The guest knows already. */
  onError(message: string): void;
}
