/**
 * What a disk is made of: an image with all that it is backed by, opened, looked at and locked. Its
 * contents are the guest's, and nothing here trusts them.
 */
import type { BigIntStats } from 'node:fs';
import { alignDown } from '../../bytes.ts';
import { VmmError } from '../../errors.ts';
import { native } from '../../native.ts';
import type { DiskGeometry, DiskImage as Handle, ImageFormat } from '../../native-disks.ts';
import { type ChainLink, type ImageConfig, openChain, unusable } from './image-chain.ts';
import type { ImageFile } from './image-file.ts';

export class DiskImage {
  /** Found by its contents, or what the config says. */
  readonly type: ImageFormat;
  readonly #chain: readonly ChainLink[];
  readonly #file: ImageFile;
  readonly #config: ImageConfig;
  #handle: Handle | undefined;

  /**
   * Only looks.
   * @param at how the config calls the disk, such as `disks[0]`.
   * @throws VmmError 'invalid-config' if it is no image that can be used in the way asked for.
   */
  constructor(config: ImageConfig, at: string) {
    const [image, ...backing] = openChain(config, at);
    this.#config = config;
    this.#chain = [image, ...backing];
    this.#file = image.file;
    this.type = image.type;
  }

  /**
   * Locks it and makes it ready for use, which may write to it. Once.
   * @throws VmmError 'conflict' if another user is in the way, 'host' if the file system has no
   *   locks, 'invalid-config' if it cannot be used after all.
   */
  open(): void {
    const { readonly, lock_granularity } = this.#config;
    for (const { file } of this.#chain) file.lock(lock_granularity);
    const files = this.#chain.map(({ file: { fd, geometry }, type }) => ({
      fd,
      type,
      alignBytes: geometry.directAlignBytes,
    }));
    try {
      this.#handle = new native.DiskImage({ files, readonly });
    } catch (cause) {
      throw unusable(this.#file, cause);
    }
  }

  /** Once it is open. */
  get handle(): Handle {
    if (!this.#handle) throw new Error('The image is not open');
    return this.#handle;
  }

  /** What the guest sees: whole blocks, for a driver could not name the rest. */
  get sizeBytes(): number {
    return alignDown(this.handle.sizeBytes, this.geometry.logicalBytes);
  }

  /** What of the file the guest does not see, though it might expect it. */
  get remainderBytes(): number {
    return this.type === 'Raw' ? this.#file.geometry.sizeBytes - this.sizeBytes : 0;
  }

  /** Blocks are the format's if it has any, the rest is the host's. */
  get geometry(): DiskGeometry {
    const { geometry } = this.#file;
    if (this.type === 'Raw') return geometry;
    const logicalBytes = this.handle.sectorBytes;
    return {
      ...geometry,
      logicalBytes,
      physicalBytes: Math.max(geometry.physicalBytes, logicalBytes),
      alignmentOffsetBytes: 0,
      minIoBytes: Math.max(geometry.minIoBytes, logicalBytes),
      optIoBytes: alignDown(geometry.optIoBytes, logicalBytes),
    };
  }

  get stat(): BigIntStats {
    return this.#file.stat;
  }

  /** Nothing may be in flight. @throws VmmError 'invalid-config', and nothing is changed. */
  async resize(sizeBytes: number): Promise<void> {
    try {
      await this.handle.resize(sizeBytes);
    } catch (cause) {
      const { code } = cause as NodeJS.ErrnoException;
      const remedy =
        code === 'EOPNOTSUPP'
          ? `${this.#file.path} is of type ${this.type}: only raw images can be resized`
          : `desired_size is ${sizeBytes}: give what ${this.#file.path} can have or has`;
      throw new VmmError(
        'invalid-config',
        'Error from device manager',
        new Error('Disk resize error', { cause: new Error(remedy, { cause }) }),
      );
    }
  }

  /** Has the host set aside room for all of a raw one. */
  preallocate(): Promise<void> {
    return native.disks.preallocate(this.#file.fd, this.#file.geometry.sizeBytes);
  }

  /** Nobody may use it any more. Rejects if its tables could not be put in order. Idempotent. */
  async close(): Promise<void> {
    try {
      // At once where there is none: who only looked does not wait.
      if (this.#handle) await this.#handle.close();
    } finally {
      for (const { file } of this.#chain) file.close();
    }
  }
}
