/** Kernel and initramfs files: opened and checked once, then read in small bounded pieces. */
import { closeSync, constants, fstatSync, openSync, readSync } from 'node:fs';
import { hex, Reader } from '../../bytes.ts';
import { VmmError } from '../../errors.ts';
import { type E820Entry, type GpaRange, MEMORY } from '../layout.ts';

const { O_NOCTTY, O_NONBLOCK, O_RDONLY } = constants;

/**
 * A part of a kernel in guest memory: `fileSizeBytes` of it come from the file, the rest of
 * `sizeBytes` is zero or scratch space. Nothing else may lie in it.
 */
export interface Extent extends Readonly<GpaRange> {
  readonly fileOffset: number;
  readonly fileSizeBytes: number;
}

/** One byte of the room is for the terminating zero. */
export const CMDLINE_BYTES_MAX = MEMORY.cmdline.sizeBytes - 1;

/** What a loader makes of a kernel file, before it is known how much RAM there will be. */
export interface Kernel {
  readonly file: ImageFile;
  /** By ascending gpa, disjoint, none below 1 MiB; that they end within RAM is for the plan. */
  readonly extents: readonly Extent[];
  /** Within one of the extents. */
  readonly entryGpa: number;
  /** The terminating zero is not counted. */
  readonly cmdlineBytesMax: number;
  /** The highest address that an initramfs may occupy. */
  readonly initramfsGpaMax: number;
  /** `linux64` carries the file's own setup header, which starts the zero page. */
  readonly protocol: { name: 'pvh' } | { name: 'linux64'; setupHeader: Uint8Array };
}

/** What every protocol tells the kernel, each in its own form. */
export interface Handover {
  cmdlineGpa: number;
  initramfs: GpaRange | undefined;
  rsdpGpa: number;
  memoryMap: readonly E820Entry[];
}

/** Owns a file descriptor, through which the native core reads the contents into guest RAM. */
export class ImageFile {
  readonly path: string;
  readonly fd: number;
  readonly sizeBytes: number;
  readonly #role: 'kernel' | 'initramfs';
  #open = true;

  /** @throws VmmError 'invalid-config' unless `path` is a regular file with something in it. */
  constructor(role: 'kernel' | 'initramfs', path: string) {
    this.#role = role;
    this.path = path;
    try {
      // Without O_NONBLOCK, open(2) of a FIFO would wait for a writer, and the whole VMM with it.
      this.fd = openSync(path, O_RDONLY | O_NONBLOCK | O_NOCTTY);
    } catch (cause) {
      throw new VmmError('invalid-config', `Cannot open ${role} file ${path}`, cause);
    }
    const stat = fstatSync(this.fd);
    this.sizeBytes = stat.size;
    if (stat.isFile() && stat.size > 0) return;
    this.close();
    if (stat.isDirectory()) throw this.refusal('is a directory');
    throw this.refusal(stat.isFile() ? 'is empty' : 'is not a regular file');
  }

  /** `why` goes on from the path: `is empty`. */
  refusal(why: string, cause?: unknown): VmmError {
    const role = this.#role === 'kernel' ? 'Kernel' : 'Initramfs';
    return new VmmError('invalid-config', `${role} ${this.path} ${why}`, cause);
  }

  /**
   * Reads one structure into memory; the caller bounds its size.
   *
   * @throws VmmError 'invalid-config', naming `what`, if it does not lie wholly within the file.
   */
  read(offset: number, sizeBytes: number, what: string): Reader {
    this.require(offset, sizeBytes, what);
    const bytes = Buffer.alloc(sizeBytes);
    let got: number;
    try {
      got = readSync(this.fd, bytes, 0, sizeBytes, offset);
    } catch (cause) {
      throw this.refusal('cannot be read', cause);
    }
    if (got < sizeBytes) throw this.refusal('was cut short while it was read');
    return new Reader(bytes);
  }

  require(offset: number, sizeBytes: number, what: string): void {
    if (offset + sizeBytes <= this.sizeBytes) return;
    const range = `${hex(sizeBytes)} bytes at ${hex(offset)}`;
    throw this.refusal(`is truncated: its ${what}, ${range}, lies beyond ${hex(this.sizeBytes)}`);
  }

  /** Idempotent. */
  close(): void {
    if (this.#open) closeSync(this.fd);
    this.#open = false;
  }
}
