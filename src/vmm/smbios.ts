/** The SMBIOS tables that name the machine. SMBIOS 3.2.0; §5.2.2 entry point, §6.1.2 structures. */
import { Writer } from '../bytes.ts';
import { MEMORY } from './layout.ts';

const ENTRY_POINT_BYTES = 24;

const BIOS_INFORMATION = 0;
const SYSTEM_INFORMATION = 1;
const END_OF_TABLE = 127;

/** The entry point and the structures behind it, for guest memory. */
export function buildSmbios(): { gpa: number; bytes: Uint8Array } {
  const structures = Buffer.concat([
    structure(BIOS_INFORMATION, 0, biosInformation(), ['cloud-hypervisor', '0']),
    structure(SYSTEM_INFORMATION, 1, systemInformation(), ['Cloud Hypervisor', 'cloud-hypervisor']),
    structure(END_OF_TABLE, 2, new Uint8Array(0), []),
  ]);
  const { gpa } = MEMORY.smbios;
  return { gpa, bytes: Buffer.concat([entryPoint(gpa, structures.length), structures]) };
}

function entryPoint(gpa: number, structureBytes: number): Uint8Array {
  const { bytes } = new Writer(ENTRY_POINT_BYTES)
    .ascii(0, '_SM3_')
    .u8(6, ENTRY_POINT_BYTES)
    .u8(7, 3)
    .u8(8, 2)
    .u8(10, 1) // entry point revision
    .u32(12, structureBytes)
    .u64(16, gpa + ENTRY_POINT_BYTES);
  bytes[5] = -bytes.reduce((sum, byte) => sum + byte, 0) & 0xff;
  return bytes;
}

// Offsets below count from the end of a structure's header of four bytes. A string field holds the
// string's place in the list, from 1; 0 is none.

/** §7.1. */
const biosInformation = (): Uint8Array =>
  new Writer(22)
    .u8(0, 1) // vendor
    .u8(1, 2) // version
    .u64(6, 1 << 3) // characteristics are not told
    .u8(15, 1 << 4).bytes; // but that this is a virtual machine

/** §7.2. */
const systemInformation = (): Uint8Array =>
  new Writer(23)
    .u8(0, 1) // manufacturer
    .u8(1, 2).bytes; // product name

/** §6.1.2, §6.1.3: header, formatted area, then the strings and an empty one. */
function structure(type: number, id: number, area: Uint8Array, strings: string[]): Uint8Array {
  const header = new Writer(4)
    .u8(0, type)
    .u8(1, 4 + area.length)
    .u16(2, id).bytes;
  const texts = strings.length > 0 ? `${strings.join('\0')}\0\0` : '\0\0';
  return Buffer.concat([header, area, Buffer.from(texts, 'latin1')]);
}
