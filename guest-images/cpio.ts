/**
 * Writes cpio archives in the `newc` format, which Linux unpacks as its initramfs
 * (Documentation/driver-api/early-userspace/buffer-format.rst). The same entries give the same
 * bytes: no times, no inode numbers of the machine that writes it.
 */

/** Type and permission bits, as in st_mode. */
export const DIRECTORY = 0o040755;
export const PROGRAM = 0o100755;
export const FILE = 0o100644;
export const SYMLINK = 0o120777;
export const CHARACTER_DEVICE = 0o020600;

export interface CpioEntry {
  /** Without a leading slash; a parent directory comes before what is in it. */
  path: string;
  mode: number;
  /** A file's bytes, or the target of a symbolic link. */
  content?: string | Uint8Array;
  /** Of a device node. */
  device?: { major: number; minor: number };
}

/** Names and contents start at multiples of this. */
const ALIGN_BYTES = 4;

export function cpio(entries: CpioEntry[]): Buffer {
  const end = { path: 'TRAILER!!!', mode: 0 };
  return Buffer.concat([...entries, end].flatMap((entry, index) => member(entry, index + 1)));
}

function member(entry: CpioEntry, inode: number): Buffer[] {
  const content = Buffer.from(entry.content ?? '');
  const name = Buffer.from(`${entry.path}\0`);
  const fields = [
    inode,
    entry.mode,
    0, // uid
    0, // gid
    1, // links
    0, // mtime
    content.length,
    0, // the device that the file is on, major and minor
    0,
    entry.device?.major ?? 0,
    entry.device?.minor ?? 0,
    name.length,
    0, // checksum, unused in this variant
  ];
  const hex = fields.map((field) => field.toString(16).padStart(8, '0'));
  const head = Buffer.concat([Buffer.from(`070701${hex.join('')}`), name]);
  return [head, padding(head.length), content, padding(content.length)];
}

function padding(lengthBytes: number): Buffer {
  return Buffer.alloc(-lengthBytes & (ALIGN_BYTES - 1));
}
