/** The file behind persistent memory: opened, and found fit to be mapped. */
import { closeSync, constants, fstatSync, openSync, statSync } from 'node:fs';
import { MIB } from '../../bytes.ts';
import { osError, VmmError } from '../../errors.ts';
import { native } from '../../native.ts';
import { makeUnnamedFile } from '../../unnamed-file.ts';

export interface PmemFile {
  fd: number;
  /** Of what is mapped: a multiple of 2 MiB. */
  sizeBytes: number;
  /** Whether what the guest writes reaches the file, stays with us, or goes nowhere. */
  access: 'shared' | 'private' | 'readonly';
}

interface PmemFileConfig {
  file: string;
  size?: number;
  discard_writes: boolean;
}

const ALIGN_BYTES = 2 * MIB;

/**
 * @param at how the config calls it, such as `pmem[0]`.
 * @throws VmmError 'invalid-config'.
 */
export function openPmem(config: PmemFileConfig, at: string): PmemFile {
  const { fd, access } = open(config, at);
  try {
    const has = fileBytes(fd, config, at);
    const sizeBytes = config.size ?? has;
    if (sizeBytes > has)
      throw refused(
        'The file is smaller than the persistent memory',
        `${at}.size is ${sizeBytes}, and ${config.file} has ${has} bytes: give at most that`,
      );
    if (sizeBytes === 0 || sizeBytes % ALIGN_BYTES !== 0)
      throw refused(
        'Trying to use a size that is not multiple of 2MiB',
        `${at}.file is ${config.file}, with ${sizeBytes} bytes: ` +
          `give it, or ${at}.size, a multiple of ${ALIGN_BYTES}`,
      );
    return { fd, sizeBytes, access };
  } catch (error) {
    closeSync(fd);
    throw error;
  }
}

function open({ file, size, discard_writes }: PmemFileConfig, at: string) {
  // Without O_NONBLOCK, open(2) of a FIFO would wait for a writer, and the whole VMM with it.
  const { O_NONBLOCK, O_NOCTTY, O_RDONLY, O_RDWR } = constants;
  const openAs = (mode: number): number => openSync(file, mode | O_NONBLOCK | O_NOCTTY);
  try {
    if (discard_writes && !statSync(file).isDirectory())
      return { fd: openAs(O_RDONLY), access: 'private' } as const;
    return { fd: openAs(O_RDWR), access: 'shared' } as const;
  } catch (cause) {
    const { code = '' } = cause as NodeJS.ErrnoException;
    if (code === 'EISDIR') return { fd: makeIn(file, size, at), access: 'shared' } as const;
    const mayRead = !discard_writes && ['EACCES', 'EPERM', 'EROFS', 'ETXTBSY'].includes(code);
    try {
      if (mayRead) return { fd: openAs(O_RDONLY), access: 'readonly' } as const;
    } catch {
      // The first failure tells more.
    }
    throw unopened(cause, `${at}.file is ${file}: name a file that may be read`);
  }
}

/** A folder is where to make a file: nothing of it is left after the VM. */
function makeIn(folder: string, size: number | undefined, at: string): number {
  if (size === undefined)
    throw refused(
      'A size must be given for persistent memory in a folder',
      `${at}.file is ${folder}, a folder: give ${at}.size, or name a file`,
    );
  try {
    return makeUnnamedFile(folder, size);
  } catch (cause) {
    throw unopened(cause, `${at}.file is ${folder}, where no file of ${size} bytes can be made`);
  }
}

function fileBytes(fd: number, { file }: PmemFileConfig, at: string): number {
  const stat = fstatSync(fd);
  if (stat.isFile()) return stat.size;
  if (stat.isBlockDevice()) return native.disks.prepare(fd, false).sizeBytes;
  throw refused(
    'Cannot open persistent memory file',
    `${at}.file is ${file}, neither a file, a block device nor a folder: name one of these`,
  );
}

const refused = (text: string, remedy: string): VmmError =>
  wrap(new Error(text, { cause: new Error(remedy) }));

const unopened = (cause: unknown, remedy: string): VmmError =>
  wrap(new Error('Cannot open persistent memory file', { cause: osError(cause, remedy) }));

/** In the words that clients know. */
const wrap = (cause: Error) => new VmmError('invalid-config', 'Error from device manager', cause);
