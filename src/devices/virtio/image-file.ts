/** One file or block device that an image lies in: opened, looked at and locked. */
import { type BigIntStats, closeSync, constants, fstatSync, openSync } from 'node:fs';
import { VmmError } from '../../errors.ts';
import { native } from '../../native.ts';
import type { DiskGeometry } from '../../native-disks.ts';

export const SECTOR_BYTES = 512;

export class ImageFile {
  readonly path: string;
  readonly readonly: boolean;
  /** How errors call it, up to what is wrong, as `disks[0].path is /a`. */
  readonly subject: string;
  readonly fd: number;
  readonly stat: BigIntStats;
  /** Of a file through the page cache, until `useDirect`. */
  geometry: DiskGeometry;
  #open = true;
  #locked = false;

  /** @throws VmmError 'invalid-config' if it is no file that an image can lie in. */
  constructor(path: string, readonly: boolean, subject: string) {
    this.path = path;
    this.readonly = readonly;
    this.subject = subject;
    this.fd = open(path, readonly, subject);
    try {
      this.stat = fstatSync(this.fd, { bigint: true });
      if (!this.stat.isFile() && !this.stat.isBlockDevice())
        throw refusal(`${subject}, ${kindOf(this.stat)}: ${NAME_AN_IMAGE}`);
      this.geometry = native.disks.prepare(this.fd, false);
    } catch (cause) {
      this.close();
      if (cause instanceof VmmError) throw cause;
      throw refusal(`${subject}, which cannot be read: ${NAME_AN_IMAGE}`, cause);
    }
  }

  isSameAs({ stat: { dev, ino, rdev } }: ImageFile): boolean {
    const { stat } = this;
    return stat.isBlockDevice() ? stat.rdev === rdev : stat.dev === dev && stat.ino === ino;
  }

  /**
   * Passes the page cache by.
   * @param at how the config calls the disk, such as `disks[0]`.
   */
  useDirect(at: string): void {
    try {
      this.geometry = native.disks.prepare(this.fd, true);
    } catch (cause) {
      throw refusal(
        `${at}.direct is true, which the file system of ${this.path} cannot do: set it to false`,
        cause,
      );
    }
  }

  /**
   * Keeps every other writer out, and every other user if it is written to, until `close`.
   * @throws VmmError 'conflict' if that is too late, 'host' if the file system has no locks.
   */
  lock(granularity: 'ByteRange' | 'Full'): void {
    const sizeBytes = granularity === 'Full' ? 0 : this.geometry.sizeBytes;
    const kind = this.readonly ? 'Read' : 'Write';
    const failure = `Failed to get ${kind} lock for disk image: ${this.path}`;
    try {
      this.#locked = native.disks.lock(this.fd, this.readonly ? 'shared' : 'exclusive', sizeBytes);
    } catch (cause) {
      throw new VmmError('host', failure, cause);
    }
    if (!this.#locked) throw locked(failure, this.subject);
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

export const refusal = (remedy: string, cause?: unknown): VmmError =>
  new VmmError('invalid-config', 'Cannot open disk path', new Error(remedy, { cause }));

const locked = (failure: string, subject: string): VmmError => {
  const remedy =
    `${subject}, which another disk or VM uses: ` +
    'end that one, or set readonly to true for all who use the image';
  const cause = new Error('The file is already locked', { cause: new Error(remedy) });
  return new VmmError(
    'conflict',
    'Error locking disk images: Another instance likely holds a lock',
    new Error('Cannot lock images of all block devices', { cause: new Error(failure, { cause }) }),
  );
};

/** Without O_NONBLOCK, open(2) of a FIFO would wait for a writer, and the whole VMM with it. */
function open(path: string, readonly: boolean, subject: string): number {
  const { O_NOCTTY, O_NONBLOCK, O_RDONLY, O_RDWR } = constants;
  try {
    return openSync(path, (readonly ? O_RDONLY : O_RDWR) | O_NONBLOCK | O_NOCTTY);
  } catch (cause) {
    const { code = '' } = cause as NodeJS.ErrnoException;
    throw refusal(`${subject}${openRemedy(code, readonly)}`, cause);
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
