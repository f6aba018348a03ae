/** What of the native core (native.ts) is about open image files and block devices. */
import type { RateLimiter } from './native-limits.ts';

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

/** As a config names the formats; a dynamic VHD is one, too. */
export type ImageFormat = 'Raw' | 'Qcow2' | 'FixedVhd' | 'Vhdx';

/** What the header of a qcow2 says. */
export interface Qcow2Summary {
  clusterBytes: number;
  /** As the image names it; empty if there is none. */
  backingFile: string;
  /** As QEMU calls it; empty if the image does not say. */
  backingFormat: string;
}

export interface DiskImageOptions {
  /**
   * The image, what it is backed by, and so on, each borrowed until `close` has resolved.
   * `alignBytes` is what O_DIRECT wants buffers, offsets and lengths to be multiples of; 1 without.
   */
  files: readonly { fd: number; type: ImageFormat; alignBytes: number }[];
  readonly: boolean;
}

/** An image that a data plane can use, with the account that its format has to be kept of it. */
export interface DiskImage {
  /** Of the disk; a multiple of 512. */
  readonly sizeBytes: number;
  /** Of its sectors, as the image has it. */
  readonly sectorBytes: number;
  /**
   * Gives a raw one another size, a multiple of 512, on a worker, while no request is in flight: a
   * file gets it, a block device must have it. Rejects, and nothing is changed: EOPNOTSUPP of other
   * formats, EINVAL if the device has another size, or what ftruncate(2) says.
   */
  resize(sizeBytes: number): Promise<void>;
  /**
   * Writes what is left to be written; no engine may use it any more. Idempotent.
   * Rejects with what fdatasync(2) and the like say.
   */
  close(): Promise<void>;
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
  /** What a file without O_DIRECT is by its contents. @throws SystemError of pread(2). */
  probe(fd: number): ImageFormat;
  /** @throws Error, saying why the image cannot be read or written and what to do about it. */
  qcow2(fd: number, readonly: boolean): Qcow2Summary;
  /** Has room for all of a regular file set aside, on a worker. */
  preallocate(fd: number, sizeBytes: number): Promise<void>;
  /** Has all that was written to it on stable storage, also through mappings; on a worker. */
  sync(fd: number): Promise<void>;
}

/** What was done with success since the boot. Latencies in µs, without what a limit adds. */
export type DiskCounters = Record<
  `${'read' | 'write'}_${'bytes' | 'ops' | `latency_${'min' | 'max' | 'avg'}`}`,
  number
>;

/** Of one disk, whatever engines its drivers start and end. 0 for what was never done. */
export interface BlockCounters {
  read(): DiskCounters;
}

export interface BlockEngineOptions {
  /** The thread of queue n is called `${id}_q${n}`, of which the kernel shows 15 bytes. */
  id: string;
  /** To be closed after `stop` has resolved. */
  image: DiskImage;
  /** Nothing is written, whatever was negotiated. */
  readonly: boolean;
  writeback: boolean;
  /** Off: discards are answered as not supported. */
  discard: boolean;
  /** Writes that would make the first sector the header of another image format fail. */
  keepRaw: boolean;
  /** At most 20 bytes. */
  serial: string;
  /** The first to try; what the host has not got gives way to the next in this order. */
  io: 'io_uring' | 'aio' | 'sync';
  /** Where the thread of queue n may run; anywhere if absent or empty. */
  hostCpus: readonly (readonly number[])[];
  /** Absent without limits. */
  limiter?: RateLimiter | undefined;
  counters: BlockCounters;
  /** An operation on the file failed; called for the first of a burst. The guest knows already. */
  onError(message: string): void;
}
