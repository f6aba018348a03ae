/**
 * Which files a disk is made of: the image that the config names, what that is backed by, and so
 * on. What an image says is followed only as far as the config allows it, for a guest may once have
 * written it. ADR 6.
 */
import { dirname, resolve } from 'node:path';
import { VmmError } from '../../errors.ts';
import { native } from '../../native.ts';
import type { ImageFormat, Qcow2Summary } from '../../native-disks.ts';
import { ImageFile, refusal, SECTOR_BYTES } from './image-file.ts';

export type ImageType = ImageFormat | 'Unknown';

/** What of a disk's config is about its files. */
export interface ImageConfig {
  path?: string;
  readonly: boolean;
  direct: boolean;
  backing_files: boolean;
  image_type: ImageType;
  lock_granularity: 'ByteRange' | 'Full';
}

/** One file of a disk, open. */
export interface ChainLink {
  readonly file: ImageFile;
  readonly type: ImageFormat;
  /** What the file says that it is backed by may be opened. */
  readonly isTrusted: boolean;
}

/** The image counts as one. Each costs a lookup for what none before it has. */
const FILES_MAX = 16;

/**
 * @param at how the config calls the disk, such as `disks[0]`.
 * @returns the image, what it is backed by, and so on.
 * @throws VmmError 'invalid-config'; then nothing is left open.
 */
export function openChain(config: ImageConfig, at: string): [ChainLink, ...ChainLink[]] {
  const chain: [ChainLink, ...ChainLink[]] = [openImage(config, at)];
  try {
    for (let next = openBacking(chain, at); next; next = openBacking(chain, at)) chain.push(next);
    if (config.direct) useDirect(chain, at);
    return chain;
  } catch (error) {
    for (const { file } of chain) file.close();
    throw error;
  }
}

function openImage(config: ImageConfig, at: string): ChainLink {
  const { path = '', readonly, image_type, backing_files } = config;
  const file = new ImageFile(path, readonly, `${at}.path is ${path}`);
  try {
    const { sizeBytes } = file.geometry;
    if (sizeBytes < SECTOR_BYTES)
      throw refusal(`${file.subject}, which has ${sizeBytes} bytes: give ${SECTOR_BYTES}`);
    const type = image_type === 'Raw' ? 'Raw' : probe(file);
    if (image_type !== 'Unknown' && image_type !== type) throw mismatch(config, type, at);
    return { file, type, isTrusted: backing_files && image_type === 'Qcow2' };
  } catch (error) {
    file.close();
    throw error;
  }
}

/** What the last file of the chain is backed by. */
function openBacking(chain: readonly ChainLink[], at: string): ChainLink | undefined {
  const overlay = chain.at(-1);
  if (overlay?.type !== 'Qcow2') return undefined;
  const { backingFile: name, backingFormat: format } = summaryOf(overlay);
  if (name === '') return undefined;
  checkFollowing(chain, overlay, name, at);
  const path = resolve(dirname(overlay.file.path), pathOf(name, overlay));
  const file = new ImageFile(path, true, `${chain[0]?.file.subject}, which is backed by ${path}`);
  try {
    if (chain.some((link) => link.file.isSameAs(file)))
      throw refusal(`${file.subject}, which is backed by itself: end the loop by ${REBASE}`);
    return { file, type: typeOf(format, file, overlay), isTrusted: format !== '' };
  } catch (error) {
    file.close();
    throw error;
  }
}

function checkFollowing(
  chain: readonly ChainLink[],
  { file, isTrusted }: ChainLink,
  name: string,
  at: string,
): void {
  const backed = `${file.subject}, which is backed by ${name}`;
  if (!isTrusted && chain.length === 1)
    throw refusal(
      `${backed}: set ${at}.image_type to Qcow2 and ${at}.backing_files to true to have that read`,
    );
  if (!isTrusted)
    throw refusal(
      `${backed}, but no image says that the former is qcow2: say so by ${REBASE} -F qcow2`,
    );
  if (chain.length >= FILES_MAX)
    throw refusal(`${backed}, one file more than ${FILES_MAX}: join some by qemu-img commit`);
}

const REBASE = 'qemu-img rebase -u';

/** What the text before the colon would be to QEMU: a protocol, or options in JSON. */
const PROTOCOL = /^[^/:]+:/;
const FILE_PROTOCOL = 'file:';

function pathOf(name: string, { file }: ChainLink): string {
  if (name.startsWith(FILE_PROTOCOL)) return name.slice(FILE_PROTOCOL.length);
  if (!PROTOCOL.test(name)) return name;
  throw refusal(`${file.subject}, which is backed by ${name}, no path: name a file by ${REBASE}`);
}

/** As QEMU calls the formats. */
const BACKING_FORMATS: Readonly<Record<string, ImageFormat>> = {
  raw: 'Raw',
  file: 'Raw',
  host_device: 'Raw',
  qcow2: 'Qcow2',
};

function typeOf(format: string, file: ImageFile, overlay: ChainLink): ImageFormat {
  if (format === '') return probe(file) === 'Qcow2' ? 'Qcow2' : 'Raw';
  const type = BACKING_FORMATS[format];
  if (type) return type;
  throw refusal(
    `${file.subject}, which is ${format} to ${overlay.file.path}: ` +
      `convert it to qcow2 or raw by qemu-img convert, then name that by ${REBASE}`,
  );
}

/** Past the page cache, two writers of one block of the host's would undo each other's work. */
function useDirect(chain: readonly ChainLink[], at: string): void {
  const granules = chain.map(granuleBytes);
  for (const [i, { file }] of chain.entries()) {
    file.useDirect(at);
    const { directAlignBytes } = file.geometry;
    if (file.readonly || directAlignBytes <= (granules[i] ?? 0)) continue;
    throw refusal(
      `${at}.direct is true, but ${file.path} has clusters of ${granules[i]} bytes and its host ` +
        `blocks of ${directAlignBytes}: set it to false`,
    );
  }
}

/** Of what the format's own tables and the guest's data have no common one. */
function granuleBytes(link: ChainLink): number {
  if (link.type === 'Qcow2') return summaryOf(link).clusterBytes;
  return link.type === 'FixedVhd' ? SECTOR_BYTES : Number.POSITIVE_INFINITY;
}

function summaryOf({ file }: ChainLink): Qcow2Summary {
  try {
    return native.disks.qcow2(file.fd, file.readonly);
  } catch (cause) {
    throw unusable(file, cause);
  }
}

function probe(file: ImageFile): ImageFormat {
  try {
    return native.disks.probe(file.fd);
  } catch (cause) {
    throw refusal(`${file.subject}, which cannot be read: name another image`, cause);
  }
}

/** `cause` says in words what is wrong with an image and what to do about it. */
export const unusable = ({ subject }: ImageFile, cause: unknown): VmmError =>
  refusal(`${subject}: ${(cause as Error).message}`);

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
