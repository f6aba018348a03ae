/**
 * bzImage, entered in 64-bit mode, 0x200 bytes into its protected-mode code.
 * Linux `Documentation/arch/x86/boot.rst`; field offsets are those of the file and the zero page.
 */
import { alignUp, hex, type Reader, Writer } from '../../bytes.ts';
import type { Blob } from '../../native-boot.ts';
import { MEMORY } from '../layout.ts';
import { CMDLINE_BYTES_MAX, type Handover, type ImageFile, type Kernel } from './image.ts';
import { IDENTITY_MAP_BYTES } from './registers.ts';

const SETUP_HEADER = 0x1f1;
/** The zero page gives the header this much room. */
const SETUP_HEADER_END_MAX = 0x290;
/** Through `init_size`, the last field of protocol 2.12 that is looked at here. */
const SETUP_HEADER_END_MIN = 0x264;
const BOOT_FLAG = 0xaa55;
const HDRS = 0x53726448;
/** The first with `xloadflags`, which tell of the 64-bit entry: Linux 3.8. */
const PROTOCOL_MIN = 0x20c;
const KERNEL_64 = 1 << 0;
const SECTOR_BYTES = 512;
const ENTRY_64 = 0x200;

/** @throws VmmError 'invalid-config' or RangeError, whatever the file holds. */
export function parseBzImage(file: ImageFile): Kernel {
  const header = setupHeader(file);
  const setupBytes = ((header.u8(0x1f1) || 4) + 1) * SECTOR_BYTES;
  const codeBytes = header.u32(0x1f4) * 16;
  if (codeBytes <= ENTRY_64) throw file.refusal(`has only ${codeBytes} bytes of code`);
  file.require(setupBytes, codeBytes, 'code');

  const gpa = loadGpa(file, header);
  const sizeBytes = Math.max(header.u32(0x260), codeBytes); // init_size
  if (gpa + sizeBytes > IDENTITY_MAP_BYTES)
    throw file.refusal(`is to run at ${hex(gpa)} and needs ${hex(sizeBytes)} bytes, beyond 1 GiB`);
  return {
    file,
    extents: [{ gpa, sizeBytes, fileOffset: setupBytes, fileSizeBytes: codeBytes }],
    entryGpa: gpa + ENTRY_64,
    cmdlineBytesMax: Math.min(header.u32(0x238), CMDLINE_BYTES_MAX),
    initramfsGpaMax: header.u32(0x22c),
    protocol: {
      name: 'linux64',
      setupHeader: header.bytes(SETUP_HEADER, header.sizeBytes - SETUP_HEADER),
    },
  };
}

/** All bytes up to the header's end, so that offsets are those of the documentation. */
function setupHeader(file: ImageFile): Reader {
  const magicEnd = 0x208;
  const magic = file.sizeBytes < magicEnd ? undefined : file.read(0, magicEnd, 'magic');
  if (magic?.u16(0x1fe) !== BOOT_FLAG || magic.u32(0x202) !== HDRS)
    throw file.refusal('is not a kernel: neither an ELF image nor a bzImage');

  const version = magic.u16(0x206);
  if (version < PROTOCOL_MIN)
    throw file.refusal(
      `has no 64-bit entry: its boot protocol is ${version >> 8}.${version & 0xff}, 2.12 is needed`,
    );
  const end = 0x202 + magic.u8(0x201);
  if (end < SETUP_HEADER_END_MIN)
    throw file.refusal(`is damaged: its setup header ends at ${hex(end)}`);
  const header = file.read(0, Math.min(end, SETUP_HEADER_END_MAX), 'setup header');
  if (!(header.u16(0x236) & KERNEL_64))
    throw file.refusal('has no 64-bit entry: XLF_KERNEL_64 is clear, so it is a 32-bit kernel');
  return header;
}

/**
 * Where the kernel is to run. It would move itself up to there from anywhere below, so what it
 * needs of RAM begins there; loading it there shows that need to whoever places the rest.
 */
function loadGpa(file: ImageFile, header: Reader): number {
  const preferred = Math.max(header.u64(0x258), MEMORY.lowRam.gpa);
  const relocatable = header.u8(0x234) !== 0;
  if (!relocatable) return preferred;
  const align = header.u32(0x230);
  if (align === 0 || (align & (align - 1)) !== 0)
    throw file.refusal(`is damaged: it asks for an alignment of ${hex(align)}`);
  return alignUp(preferred, align);
}

const LOADER_UNDEFINED = 0xff;

/** `struct boot_params`. The initramfs lies below 4 GiB, so the upper halves stay zero. */
export function zeroPage(setupHeader: Uint8Array, handover: Handover): Blob[] {
  const { cmdlineGpa, initramfs, rsdpGpa, memoryMap } = handover;
  const page = new Writer(MEMORY.zeroPage.sizeBytes)
    .put(SETUP_HEADER, setupHeader)
    .u8(0x210, LOADER_UNDEFINED)
    .u32(0x218, initramfs?.gpa ?? 0)
    .u32(0x21c, initramfs?.sizeBytes ?? 0)
    .u32(0x228, cmdlineGpa)
    .u64(0x070, rsdpGpa)
    .u8(0x1e8, memoryMap.length);
  for (const [i, { gpa, sizeBytes, type }] of memoryMap.entries()) {
    const at = 0x2d0 + i * 20;
    page
      .u64(at, gpa)
      .u64(at + 8, sizeBytes)
      .u32(at + 16, type);
  }
  return [{ gpa: MEMORY.zeroPage.gpa, bytes: page.bytes }];
}
