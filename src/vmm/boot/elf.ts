/**
 * ELF `vmlinux` with a PVH note: loaded by physical address, entered in 32-bit mode without paging.
 * System V gABI 4.1 ch. 4–5; Xen `elfnote.h` for the note.
 */
import { alignUp, hex, KIB, type Reader } from '../../bytes.ts';
import { VmmError } from '../../errors.ts';
import { MEMORY } from '../layout.ts';
import { CMDLINE_BYTES_MAX, type Extent, type ImageFile, type Kernel } from './image.ts';

const MAGIC = 0x464c457f;
const IDENTITY_BYTES = 20;
const HEADER_BYTES = 64;
const PROGRAM_HEADER_BYTES = 56;
/** Linux has five; the limit keeps what is read of a hostile file small. */
const PROGRAM_HEADERS_MAX = 64;
/** Linux's notes take half a kibibyte. */
const NOTES_BYTES_MAX = 64 * KIB;

const CLASS_64 = 2;
const LITTLE_ENDIAN = 1;
const TYPE_EXECUTABLE = 2;
const TYPE_DYNAMIC = 3;
const MACHINE_X86_64 = 62;
const SEGMENT_LOAD = 1;
const SEGMENT_NOTE = 4;

const NOTE_NAME_XEN = 0x006e6558; // "Xen", with the zero that its length counts
const NOTE_PHYS32_ENTRY = 18;

interface ProgramHeader {
  type: number;
  offset: number;
  gpa: number;
  fileSizeBytes: number;
  sizeBytes: number;
  align: number;
}

export const isElf = (file: ImageFile): boolean =>
  file.sizeBytes >= 4 && file.read(0, 4, 'magic').u32(0) === MAGIC;

/** @throws VmmError 'invalid-config' or RangeError, whatever the file holds. */
export function parseElf(file: ImageFile): Kernel {
  checkIdentity(file, file.read(0, IDENTITY_BYTES, 'ELF identity'));
  const headers = programHeaders(file);
  const extents = headers
    .filter(({ type, sizeBytes }) => type === SEGMENT_LOAD && sizeBytes > 0)
    .map((header) => loadable(file, header))
    .sort((a, b) => a.gpa - b.gpa);
  if (extents.length === 0) throw file.refusal('has no segment to load');
  for (const [i, { gpa }] of extents.entries()) {
    const before = extents[i - 1];
    if (before && before.gpa + before.sizeBytes > gpa)
      throw file.refusal(`has overlapping segments at ${hex(before.gpa)} and ${hex(gpa)}`);
  }
  return {
    file,
    extents,
    entryGpa: entryWithin(file, extents, headers),
    cmdlineBytesMax: CMDLINE_BYTES_MAX,
    initramfsGpaMax: 0xffff_ffff,
    protocol: { name: 'pvh' },
  };
}

function checkIdentity(file: ImageFile, identity: Reader): void {
  const machine = identity.u16(18);
  if (identity.u8(5) !== LITTLE_ENDIAN) throw file.refusal('is a big-endian ELF image, not x86-64');
  if (identity.u8(4) !== CLASS_64) throw file.refusal('is a 32-bit ELF image; 64-bit is needed');
  if (machine !== MACHINE_X86_64)
    throw file.refusal(`is for another machine: ELF machine ${machine}, x86-64 is 62`);
  const type = identity.u16(16);
  if (type !== TYPE_EXECUTABLE && type !== TYPE_DYNAMIC)
    throw file.refusal(`is an ELF image of type ${type}, not an executable`);
}

function programHeaders(file: ImageFile): ProgramHeader[] {
  const header = file.read(0, HEADER_BYTES, 'ELF header');
  const offset = header.u64(32);
  const entryBytes = header.u16(54);
  const count = header.u16(56);
  if (count > PROGRAM_HEADERS_MAX)
    throw file.refusal(`has ${count} program headers; ${PROGRAM_HEADERS_MAX} is the most allowed`);
  if (count > 0 && entryBytes !== PROGRAM_HEADER_BYTES)
    throw file.refusal(`has program headers of ${entryBytes} bytes instead of 56`);

  const table = file.read(offset, count * PROGRAM_HEADER_BYTES, 'program header table');
  return Array.from({ length: count }, (_, i) => {
    const at = i * PROGRAM_HEADER_BYTES;
    return {
      type: table.u32(at),
      offset: table.u64(at + 8),
      gpa: table.u64(at + 24),
      fileSizeBytes: table.u64(at + 32),
      sizeBytes: table.u64(at + 40),
      align: table.u64(at + 48),
    };
  });
}

function loadable(file: ImageFile, header: ProgramHeader): Extent {
  const { gpa, sizeBytes, offset, fileSizeBytes } = header;
  const name = `segment at ${hex(gpa)}`;
  if (fileSizeBytes > sizeBytes)
    throw file.refusal(`has a ${name} that is larger in the file than in memory`);
  file.require(offset, fileSizeBytes, name);
  if (gpa < MEMORY.lowRam.gpa)
    throw file.refusal(`has a ${name}, below 1 MiB, where boot data and tables lie`);
  return { gpa, sizeBytes, fileOffset: offset, fileSizeBytes };
}

function entryWithin(file: ImageFile, extents: Extent[], headers: ProgramHeader[]): number {
  for (const header of headers) {
    const entry = header.type === SEGMENT_NOTE ? pvhEntry(file, header) : undefined;
    if (entry === undefined) continue;
    const within = extents.some(({ gpa, sizeBytes }) => entry >= gpa && entry < gpa + sizeBytes);
    if (!within) throw file.refusal(`has its PVH entry ${hex(entry)} outside its segments`);
    return entry;
  }
  throw new VmmError(
    'invalid-config',
    `Kernel lacks PVH header: ${file.path} has no note Xen/18; CONFIG_PVH=y adds it`,
  );
}

/** The address in the note PHYS32_ENTRY, which has 4 or 8 bytes. */
function pvhEntry(file: ImageFile, header: ProgramHeader): number | undefined {
  const { offset, fileSizeBytes } = header;
  if (fileSizeBytes > NOTES_BYTES_MAX)
    throw file.refusal(
      `has ${fileSizeBytes} bytes of notes; ${NOTES_BYTES_MAX} is the most allowed`,
    );
  const notes = file.read(offset, fileSizeBytes, 'note segment');
  const align = header.align === 8 ? 8 : 4;
  for (let at = 0; at < notes.sizeBytes; ) {
    const nameBytes = notes.u32(at);
    const valueBytes = notes.u32(at + 4);
    const type = notes.u32(at + 8);
    const value = alignUp(at + 12 + nameBytes, align);
    if (type === NOTE_PHYS32_ENTRY && nameBytes === 4 && notes.u32(at + 12) === NOTE_NAME_XEN)
      return valueBytes === 8 ? notes.u64(value) : notes.u32(value);
    at = alignUp(value + valueBytes, align);
  }
  return undefined;
}
