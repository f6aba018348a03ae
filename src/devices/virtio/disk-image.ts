/**
 * What a disk is made of: an image file or a block device, opened, looked at and locked. Its
 * contents are the guest's, and nothing here trusts them.
 */
import { type BigIntStats, closeSync, constants, fstatSync, openSync, readSync } from 'node:fs';
import { VmmError } from '../../errors.ts';
import { native } from '../../native.ts';
import type { DiskGeometry } from '../../native-disks.ts';

export const SECTOR_BYTES = 512;

export type ImageType = 'FixedVhd' | 'Qcow2' | 'Raw' | 'Vhdx' | 'Unknown';

/** What of a disk's config is about its file. */
export interface ImageConfig {
  path?: string;
  readonly: boolean;
  direct: boolean;
  image_type: ImageType;
  lock_granularity: 'ByteRange' | 'Full';
}

export class DiskImage {
  readonly path: string;
  readonly fd: number;
  readonly stat: BigIntStats;
  readonly geometry: DiskGeometry;
  /** Found by its contents, or what the config says. */
  readonly type: ImageType;
  #open = true;
  #locked = false;

  /**
   * @param at how the config calls the disk, such as `disks[0]`.
   * @throws VmmError 'invalid-config' if it is no image that can be used in the way asked for.
   */
  constructor(config: ImageConfig, at: string) {
    const { path = '', direct, image_type } = config;
    this.path = path;
    this.fd = openImage(config, at);
    try {
      this.stat = fstatSync(this.fd, { bigint: true });
      if (!this.stat.isFile() && !this.stat.isBlockDevice())
        throw refusal(`${at}.path is ${path}, ${kindOf(this.stat)}: ${NAME_AN_IMAGE}`);
      const { sizeBytes } = native.disks.prepare(this.fd, false);
      if (sizeBytes < SECTOR_BYTES)
        throw refusal(`${at}.path is ${path}, which has ${sizeBytes} bytes: give ${SECTOR_BYTES}`);
      this.type = image_type === 'Raw' ? 'Raw' : probe(this.fd, sizeBytes);
      if (image_type !== 'Unknown' && image_type !== this.type)
        throw mismatch(config, this.type, at);
      this.geometry = prepare(this.fd, direct, at);
    } catch (cause) {
      this.close();
      if (cause instanceof VmmError) throw cause;
      throw refusal(`${at}.path is ${path}, which cannot be read: ${NAME_AN_IMAGE}`, cause);
    }
  }

  /**
   * Keeps every other writer out, and every other user if the disk is written to, until `close`.
   * @throws VmmError 'conflict' if that is too late, 'host' if the file system has no locks.
   */
  lock({ readonly, lock_granularity }: ImageConfig, at: string): void {
    const sizeBytes = lock_granularity === 'Full' ? 0 : this.geometry.sizeBytes;
    const failure = `Failed to get ${readonly ? 'Read' : 'Write'} lock for disk image: ${this.path}`;
    try {
      this.#locked = native.disks.lock(this.fd, readonly ? 'shared' : 'exclusive', sizeBytes);
    } catch (cause) {
      throw new VmmError('host', failure, cause);
    }
    if (!this.#locked) throw locked(failure, `${at}.path is ${this.path}`);
  }

  /** Idempotent. */
  close(): void {
    if (!this.#open) return;
    this.#open = false;
    // The kernel may hold the open file for a while after io_uring has ended, lock and all.
    if (this.#locked) native.disks.lock(this.fd, 'none', 0);
    closeSync(this.fd);
  }
}

const NAME_AN_IMAGE = 'name an image file or a block device';

const refusal = (remedy: string, cause?: unknown): VmmError =>
  new VmmError('invalid-config', 'Cannot open disk path', new Error(remedy, { cause }));

const locked = (failure: string, at: string): VmmError => {
  const remedy =
    `${at}, which another disk or VM uses: ` +
    'end that one, or set readonly to true for all who use the image';
  const cause = new Error('The file is already locked', { cause: new Error(remedy) });
  return new VmmError(
    'conflict',
    'Error locking disk images: Another instance likely holds a lock',
    new Error('Cannot lock images of all block devices', { cause: new Error(failure, { cause }) }),
  );
};

/** Without O_NONBLOCK, open(2) of a FIFO would wait for a writer, and the whole VMM with it. */
function openImage({ path = '', readonly }: ImageConfig, at: string): number {
  const { O_NOCTTY, O_NONBLOCK, O_RDONLY, O_RDWR } = constants;
  try {
    return openSync(path, (readonly ? O_RDONLY : O_RDWR) | O_NONBLOCK | O_NOCTTY);
  } catch (cause) {
    const { code = '' } = cause as NodeJS.ErrnoException;
    throw refusal(`${at}.path is ${path}${openRemedy(code, readonly)}`, cause);
  }
}

function openRemedy(code: string, readonly: boolean): string {
  switch (code) {
    case 'ENOENT':
      return ', which is not there: name an image that exists';
    case 'EISDIR':
      return `, a directory: ${NAME_AN_IMAGE}`;
    case 'EACCES':
    case 'EPERM':
    case 'EROFS':
      return readonly
        ? ', which may not be read: give the VMM the right to'
        : ', which may not be written: set readonly to true, or give the VMM the right to';
    default:
      return `: ${NAME_AN_IMAGE}`;
  }
}

function kindOf(stat: BigIntStats): string {
  if (stat.isDirectory()) return 'a directory';
  return stat.isFIFO() ? 'a FIFO' : 'neither a file nor a block device';
}

function prepare(fd: number, direct: boolean, at: string): DiskGeometry {
  try {
    return native.disks.prepare(fd, direct);
  } catch (cause) {
    throw refusal(
      `${at}.direct is ${direct}, which the file system of the image cannot do: set it to false`,
      cause,
    );
  }
}

const NAMES: Readonly<Record<ImageType, string>> = {
  FixedVhd: 'vhd',
  Qcow2: 'qcow2',
  Raw: 'raw',
  Vhdx: 'vhdx',
  Unknown: 'unknown',
};

const mismatch = ({ path, image_type }: ImageConfig, found: ImageType, at: string): VmmError =>
  new VmmError(
    'invalid-config',
    'Disk image type does not match expected type: ' +
      `specified = ${NAMES[image_type]}, detected = ${NAMES[found]}`,
    new Error(
      `${at}.image_type is ${image_type}: give that of ${path}, or Raw for its bytes as they are`,
    ),
  );

/** The first bytes of an image that is not raw. */
const SIGNATURES = [
  ['Qcow2', 'QFI\xfb'],
  ['Vhdx', 'vhdxfile'],
] as const;

/** A fixed VHD is raw but for a footer of one sector. */
const VHD_COOKIE = 'conectix';
const VHD_TYPE_OFFSET = 60;
const VHD_TYPE_FIXED = 2;

/** What an image is by its contents, which the guest may have written. */
function probe(fd: number, sizeBytes: number): ImageType {
  const first = readSector(fd, 0).toString('latin1');
  const known = SIGNATURES.find(([, signature]) => first.startsWith(signature));
  if (known) return known[0];
  const last = readSector(fd, sizeBytes - SECTOR_BYTES);
  const hasFooter = last.toString('latin1').startsWith(VHD_COOKIE);
  return hasFooter && last.readUInt32BE(VHD_TYPE_OFFSET) === VHD_TYPE_FIXED ? 'FixedVhd' : 'Raw';
}

function readSector(fd: number, offset: number): Buffer {
  const sector = Buffer.alloc(SECTOR_BYTES);
  readSync(fd, sector, 0, SECTOR_BYTES, offset);
  return sector;
}
