/** The SMBIOS tables that name the machine. SMBIOS 3.2.0; §5.2.2 entry point, §6.1.2 structures. */
import { Writer } from '../bytes.ts';
import type { PlatformConfig } from './config/platform.ts';
import { MEMORY } from './layout.ts';

const ENTRY_POINT_BYTES = 24;

const BIOS_INFORMATION = 0;
const SYSTEM_INFORMATION = 1;
const CHASSIS = 3;
const OEM_STRINGS = 11;
const END_OF_TABLE = 127;

const MANUFACTURER = 'Cloud Hypervisor';
const PRODUCT_NAME = 'cloud-hypervisor';

const UUID_BYTES = 16;

interface Structure {
  type: number;
  /** What stands between its header and its strings. */
  area: Uint8Array;
  strings: readonly string[];
}

/**
 * The entry point and the structures behind it, for guest memory. Empty strings are as none, and
 * `oem_strings` has no more than 255, none of them empty: the rules of the config see to it.
 */
export function buildSmbios(platform: Partial<PlatformConfig> = {}): {
  gpa: number;
  bytes: Uint8Array;
} {
  const { chassis_asset_tag: tag = '', oem_strings: oem = [] } = platform;
  const all: Structure[] = [
    biosInformation(),
    systemInformation(platform),
    ...(tag === '' ? [] : [chassis(platform, tag)]),
    ...(oem.length === 0
      ? []
      : [{ type: OEM_STRINGS, area: Uint8Array.of(oem.length), strings: oem }]),
    { type: END_OF_TABLE, area: new Uint8Array(0), strings: [] },
  ];
  const structures = Buffer.concat(all.map(encode));
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

/** The strings of a structure; a field holds the place of its string among them, from 1. */
class Strings {
  readonly all: string[] = [];

  /** 0 is none. */
  add(text: string | undefined): number {
    return text === undefined || text === '' ? 0 : this.all.push(text);
  }
}

// Offsets below count from the end of a structure's header of four bytes.

/** §7.1. */
function biosInformation(): Structure {
  const strings = new Strings();
  const area = new Writer(22)
    .u8(0, strings.add('cloud-hypervisor')) // vendor
    .u8(1, strings.add('0')) // version
    .u64(6, 1 << 3) // characteristics are not told
    .u8(15, 1 << 4).bytes; // but that this is a virtual machine
  return { type: BIOS_INFORMATION, area, strings: strings.all };
}

/** §7.2. */
function systemInformation(platform: Partial<PlatformConfig>): Structure {
  const strings = new Strings();
  const { system_uuid: uuid } = platform;
  const area = new Writer(23)
    .u8(0, strings.add(manufacturerOf(platform)))
    .u8(1, strings.add(platform.system_product_name || PRODUCT_NAME))
    .u8(2, strings.add(platform.system_version))
    .u8(3, strings.add(platform.system_serial_number))
    .put(4, uuid === undefined ? new Uint8Array(UUID_BYTES) : uuidBytes(uuid))
    .u8(21, strings.add(platform.system_sku_number))
    .u8(22, strings.add(platform.system_family)).bytes;
  return { type: SYSTEM_INFORMATION, area, strings: strings.all };
}

/** §7.4: of type "other", in a state that is safe, with security unknown. */
function chassis(platform: Partial<PlatformConfig>, tag: string): Structure {
  const [other, safe, unknown] = [1, 3, 2];
  const strings = new Strings();
  const area = new Writer(18)
    .u8(0, strings.add(manufacturerOf(platform)))
    .u8(1, other)
    .u8(4, strings.add(tag))
    .u8(5, safe)
    .u8(6, safe)
    .u8(7, safe)
    .u8(8, unknown).bytes;
  return { type: CHASSIS, area, strings: strings.all };
}

const manufacturerOf = ({ system_manufacturer }: Partial<PlatformConfig>): string =>
  system_manufacturer || MANUFACTURER;

/** §7.2.1: the first three fields are little-endian. */
function uuidBytes(text: string): Uint8Array {
  const bytes = Buffer.from(text.replaceAll('-', ''), 'hex');
  bytes.subarray(0, 4).reverse();
  bytes.subarray(4, 6).reverse();
  bytes.subarray(6, 8).reverse();
  return bytes;
}

/** §6.1.2, §6.1.3: header, formatted area, then the strings and an empty one. */
function encode({ type, area, strings }: Structure, handle: number): Uint8Array {
  const header = new Writer(4)
    .u8(0, type)
    .u8(1, 4 + area.length)
    .u16(2, handle).bytes;
  const texts = strings.length > 0 ? `${strings.join('\0')}\0\0` : '\0\0';
  return Buffer.concat([header, area, Buffer.from(texts)]);
}
