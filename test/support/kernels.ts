/** Builders of small kernel files: valid unless an option says otherwise. */
import { Writer } from '../../src/bytes.ts';

export interface ElfSegment {
  type?: number;
  gpa: number | bigint;
  bytes?: Uint8Array;
  /** Instead of what `bytes` give. */
  offset?: number | bigint;
  fileSizeBytes?: number | bigint;
  sizeBytes?: number | bigint;
  align?: number;
}

export interface ElfOptions {
  class?: number;
  data?: number;
  type?: number;
  machine?: number;
  programHeadersAt?: number | bigint;
  programHeaderBytes?: number;
  programHeaders?: number;
  segments?: ElfSegment[];
}

const PT_LOAD = 1;
export const PT_NOTE = 4;

/** Code of a segment whose first instruction halts. */
export const HALT = Uint8Array.of(0xf4);

export interface Note {
  name: string;
  type: number;
  value: Uint8Array;
}

export const pvhNote = (entryGpa: number | bigint, valueBytes: 4 | 8 = 8): Note => ({
  name: 'Xen\0',
  type: 18,
  value: new Writer(8).u64(0, entryGpa).bytes.subarray(0, valueBytes),
});

const roundUp = (value: number, step: number) => Math.ceil(value / step) * step;

/** A note segment, its names and values padded to `align`. */
export function notes(list: readonly Note[], align: 4 | 8 = 4): Uint8Array {
  const parts = list.map(({ name, type, value }) => {
    const valueAt = roundUp(12 + name.length, align);
    return new Writer(roundUp(valueAt + value.length, align))
      .u32(0, name.length)
      .u32(4, value.length)
      .u32(8, type)
      .ascii(12, name)
      .put(valueAt, value).bytes;
  });
  return Buffer.concat(parts);
}

/** A `vmlinux`: by default one page at 1 MiB with a PVH entry at its start. */
export function elfKernel(options: ElfOptions = {}): Uint8Array {
  const {
    segments = [
      { gpa: 0x10_0000, bytes: HALT, sizeBytes: 4096 },
      { type: PT_NOTE, gpa: 0, bytes: notes([pvhNote(0x10_0000)]) },
    ],
  } = options;
  const headers = new Writer(64 + segments.length * 56);
  headers
    .u32(0, 0x464c457f)
    .u8(4, options.class ?? 2)
    .u8(5, options.data ?? 1)
    .u8(6, 1)
    .u16(16, options.type ?? 2)
    .u16(18, options.machine ?? 62)
    .u64(32, options.programHeadersAt ?? 64)
    .u16(54, options.programHeaderBytes ?? 56)
    .u16(56, options.programHeaders ?? segments.length);
  const contents: Uint8Array[] = [];
  let end = headers.bytes.length;
  for (const [i, segment] of segments.entries()) {
    const bytes = segment.bytes ?? new Uint8Array(0);
    headers
      .u32(64 + i * 56, segment.type ?? PT_LOAD)
      .u64(64 + i * 56 + 8, segment.offset ?? end)
      .u64(64 + i * 56 + 24, segment.gpa)
      .u64(64 + i * 56 + 32, segment.fileSizeBytes ?? bytes.length)
      .u64(64 + i * 56 + 40, segment.sizeBytes ?? bytes.length)
      .u64(64 + i * 56 + 48, segment.align ?? 4);
    contents.push(bytes);
    end += bytes.length;
  }
  return Buffer.concat([headers.bytes, ...contents]);
}

/** Offset and size of each field of the setup header, by its name in the protocol. */
const FIELDS = {
  setup_sects: [0x1f1, 1],
  syssize: [0x1f4, 4],
  boot_flag: [0x1fe, 2],
  jump_length: [0x201, 1],
  header: [0x202, 4],
  version: [0x206, 2],
  initrd_addr_max: [0x22c, 4],
  kernel_alignment: [0x230, 4],
  relocatable_kernel: [0x234, 1],
  xloadflags: [0x236, 2],
  cmdline_size: [0x238, 4],
  pref_address: [0x258, 8],
  init_size: [0x260, 4],
} as const;

export type SetupField = keyof typeof FIELDS;

/** What `bzImage` writes where nothing else is asked for. */
export const SETUP_FIELDS: Record<SetupField, number> = {
  setup_sects: 1,
  syssize: 0x210 / 16,
  boot_flag: 0xaa55,
  jump_length: 0x6a,
  header: 0x53726448,
  version: 0x20f,
  initrd_addr_max: 0x7fff_ffff,
  kernel_alignment: 0x20_0000,
  relocatable_kernel: 1,
  xloadflags: 1,
  cmdline_size: 2047,
  pref_address: 0x100_0000,
  init_size: 0x40_0000,
};

const SECTOR_BYTES = 512;
const ENTRY_64 = 0x200;

/** A bzImage whose 64-bit entry holds `code`; 4 MiB to run in, from 16 MiB. */
export function bzImage(
  fields: Partial<Record<SetupField, number | bigint>> = {},
  code: Uint8Array = HALT,
): Uint8Array {
  const image = new Writer(2 * SECTOR_BYTES + roundUp(ENTRY_64 + code.length, 16));
  for (const [name, [offset, sizeBytes]] of Object.entries(FIELDS)) {
    const field = name as SetupField;
    const le = new Writer(8).u64(0, fields[field] ?? SETUP_FIELDS[field]);
    image.put(offset, le.bytes.subarray(0, sizeBytes));
  }
  if (fields.syssize === undefined) image.u32(0x1f4, (image.bytes.length - 1024) / 16);
  return image.put(2 * SECTOR_BYTES + ENTRY_64, code).bytes;
}
