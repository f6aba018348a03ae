import { execFileSync } from 'node:child_process';
import { mkdtempSync, rmSync, truncateSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, describe, expect, test } from 'vitest';
import { GIB, Writer } from '../../../../src/bytes.ts';
import { VmmError } from '../../../../src/errors.ts';
import type { Kernel } from '../../../../src/vmm/boot/image.ts';
import { openKernel } from '../../../../src/vmm/boot/kernel.ts';
import { openFiles } from '../../../support/fds.ts';
import {
  bzImage,
  type ElfOptions,
  type ElfSegment,
  elfKernel,
  HALT,
  notes,
  PT_NOTE,
  pvhNote,
  type SetupField,
} from '../../../support/kernels.ts';

const folder = mkdtempSync(join(tmpdir(), 'kernel-'));
const path = join(folder, 'kernel');
afterAll(() => rmSync(folder, { recursive: true }));

function open(bytes: Uint8Array): Kernel {
  writeFileSync(path, bytes);
  return openKernel(path);
}

/** What is seen of a kernel, its file closed. */
function load(bytes: Uint8Array) {
  const { file, ...rest } = open(bytes);
  file.close();
  return rest;
}

/** The refusal's message, without the path. */
function refusal(run: () => unknown): string {
  try {
    run();
  } catch (error) {
    if (error instanceof VmmError && error.kind === 'invalid-config')
      return error.message.replace(path, 'K');
    throw error;
  }
  throw new Error('It was not refused');
}

const note = (...list: Parameters<typeof notes>): ElfSegment => ({
  type: PT_NOTE,
  gpa: 0,
  bytes: notes(...list),
  align: list[1] ?? 4,
});
const CODE = { gpa: 0x10_0000, bytes: HALT, sizeBytes: 4096 };

describe('an ELF kernel', () => {
  test('is placed by its physical addresses, in their order', () => {
    const first = { gpa: 0x20_0000, bytes: new Uint8Array(7), sizeBytes: 0x1000 };
    const second = { gpa: 0x10_0000, bytes: HALT };
    const bss = { gpa: 0x30_0000, sizeBytes: 0x5000 };

    const kernel = load(elfKernel({ segments: [first, second, bss, note([pvhNote(0x20_0000)])] }));

    expect(kernel).toEqual({
      entryGpa: 0x20_0000,
      extents: [
        { gpa: 0x10_0000, sizeBytes: 1, fileOffset: 64 + 4 * 56 + 7, fileSizeBytes: 1 },
        { gpa: 0x20_0000, sizeBytes: 0x1000, fileOffset: 64 + 4 * 56, fileSizeBytes: 7 },
        { gpa: 0x30_0000, sizeBytes: 0x5000, fileOffset: 64 + 4 * 56 + 8, fileSizeBytes: 0 },
      ],
      cmdlineBytesMax: 65535,
      initramfsGpaMax: 0xffff_ffff,
      protocol: { name: 'pvh' },
    });
  });

  test.each([4, 8] as const)('has its entry found among notes aligned to %i', (align) => {
    const others = [
      { name: 'Xen\0', type: 6, value: new Uint8Array(6) },
      { name: 'Linux\0', type: 18, value: new Uint8Array(8) },
    ];
    const segments = [CODE, note([], 4), note([...others, pvhNote(0x10_0004, align)], align)];

    expect(load(elfKernel({ segments })).entryGpa).toBe(0x10_0004);
  });

  const withSegment = (segment: ElfSegment): ElfOptions => ({
    segments: [CODE, segment, note([pvhNote(0x10_0000)])],
  });
  const withNotes = (bytes: Uint8Array): ElfOptions => ({
    segments: [CODE, { type: PT_NOTE, gpa: 0, bytes }],
  });
  test.each<[string, ElfOptions, string]>([
    ['32 bits', { class: 1, machine: 3 }, 'Kernel K is a 32-bit ELF image; 64-bit is needed'],
    ['another machine', { machine: 183 }, 'machine: ELF machine 183, x86-64 is 62'],
    ['the other byte order', { data: 2 }, 'Kernel K is a big-endian ELF image, not x86-64'],
    ['an object file', { type: 1 }, 'Kernel K is an ELF image of type 1, not an executable'],
    ['no program headers', { programHeaders: 0 }, 'Kernel K has no segment to load'],
    ['65 program headers', { programHeaders: 65 }, 'has 65 program headers; 64 is the most'],
    [
      'odd program headers',
      { programHeaderBytes: 32 },
      'program headers of 32 bytes instead of 56',
    ],
    ['headers far out', { programHeadersAt: 2n ** 64n - 1n }, 'its program header table'],
    ['no note', { segments: [CODE] }, 'Kernel lacks PVH header: K has no note Xen/18'],
    ['another note', { segments: [CODE, note([{ ...pvhNote(0), type: 17 }])] }, 'lacks PVH header'],
    ['a cut note', withNotes(notes([pvhNote(0x10_0000)]).subarray(0, 18)), 'is damaged: a struct'],
    ['a note too long', withNotes(new Writer(12).u32(4, 0xffff_fff0).bytes), 'lacks PVH header'],
    ['much of notes', withNotes(new Uint8Array(65540)), 'has 65540 bytes of notes; 65536 is'],
    [
      'a PVH entry in no segment',
      { segments: [CODE, note([pvhNote(0x10_1000)])] },
      '0x101000 outs',
    ],
    ['a segment below 1 MiB', withSegment({ gpa: 0xf_f000, bytes: HALT }), '0xff000, below 1 MiB'],
    ['overlap', withSegment({ gpa: 0x10_0fff, bytes: HALT }), 'segments at 0x100000 and 0x100fff'],
    [
      'a wrap',
      withSegment({ gpa: 1 << 20, sizeBytes: 2n ** 64n - 1n }),
      'has overlapping segments',
    ],
    [
      'a large file part',
      withSegment({ gpa: 2 << 20, bytes: HALT, fileSizeBytes: 2 }),
      'larger in the file than in memory',
    ],
    [
      'contents far out',
      withSegment({ gpa: 2 << 20, bytes: HALT, offset: 2n ** 63n }),
      'its segment at 0x200000, 0x1 bytes at',
    ],
  ])('with %s is refused', (_, options, message) => {
    expect(refusal(() => open(elfKernel(options)))).toContain(message);
  });
});

describe('a bzImage', () => {
  test('is placed where it is to run, and entered at 0x200 in its code', () => {
    const { protocol, ...kernel } = load(bzImage());

    expect(kernel).toEqual({
      entryGpa: 0x100_0200,
      extents: [{ gpa: 0x100_0000, sizeBytes: 0x40_0000, fileOffset: 1024, fileSizeBytes: 0x210 }],
      cmdlineBytesMax: 2047,
      initramfsGpaMax: 0x7fff_ffff,
    });
    expect(protocol).toEqual({
      name: 'linux64',
      setupHeader: bzImage().subarray(0x1f1, 0x202 + 0x6a),
    });
  });

  test.each<[string, Partial<Record<SetupField, number>>, number]>([
    ['aligned, if it can be moved', { pref_address: 0x100_0001 }, 0x120_0000],
    ['as it is, if it cannot', { pref_address: 0x100_1000, relocatable_kernel: 0 }, 0x100_1000],
    ['at 1 MiB or above', { pref_address: 0, kernel_alignment: 0x1000 }, 0x10_0000],
  ])('runs at the address that it prefers: %s', (_, fields, gpa) => {
    expect(load(bzImage(fields)).extents[0]?.gpa).toBe(gpa);
  });

  test('that says it runs in less than it has still keeps its code apart', () => {
    expect(load(bzImage({ init_size: 16 })).extents[0]?.sizeBytes).toBe(0x210);
  });

  test('with a header longer than the zero page has room for has it cut there', () => {
    const { protocol } = load(bzImage({ jump_length: 0xff }));
    expect(protocol).toHaveProperty('setupHeader.length', 0x290 - 0x1f1);
  });

  test('without a count of setup sectors has four', () => {
    const moved = Buffer.concat([bzImage({ setup_sects: 0 }), new Uint8Array(3 * 512)]);
    expect(load(moved).extents[0]?.fileOffset).toBe(5 * 512);
  });

  test('takes at most 64 KiB of command line, its end counted', () => {
    expect(load(bzImage({ cmdline_size: 0xffff_ffff })).cmdlineBytesMax).toBe(65535);
  });

  const notKernel = 'Kernel K is not a kernel: neither an ELF image nor a bzImage';
  test.each<[string, Partial<Record<SetupField, number>>, string]>([
    ['no boot flag', { boot_flag: 0 }, notKernel],
    ['no magic', { header: 0 }, notKernel],
    ['an old protocol', { version: 0x20b }, 'no 64-bit entry: its boot protocol is 2.11, 2.12 is'],
    ['32 bits', { xloadflags: 0xfe }, 'has no 64-bit entry: XLF_KERNEL_64 is clear, so it is a 32'],
    ['a short header', { jump_length: 0x61 }, 'is damaged: its setup header ends at 0x263'],
    ['no code', { syssize: 0x20 }, 'has only 512 bytes of code'],
    ['code beyond its end', { syssize: 0x22 }, 'its code, 0x220 bytes at 0x400, lies beyond 0x610'],
    ['an odd alignment', { kernel_alignment: 3 }, 'asks for an alignment of 0x3'],
    ['no alignment', { kernel_alignment: 0 }, 'asks for an alignment of 0x0'],
    ['too high an address', { pref_address: GIB }, 'and needs 0x400000 bytes, beyond 1 GiB'],
  ])('with %s is refused', (_, fields, message) => {
    expect(refusal(() => open(bzImage(fields)))).toContain(message);
  });
});

test.each([
  ['an ELF kernel', elfKernel()],
  ['a bzImage', bzImage()],
])('%s cut short anywhere is refused', (_, whole) => {
  writeFileSync(path, whole);
  for (let size = whole.length - 1; size > 0; size--) {
    truncateSync(path, size);
    expect(refusal(() => openKernel(path))).toMatch(/is truncated|is not a kernel/);
  }
});

test.each([
  ['is missing', () => openKernel(`${path}-none`), 'Cannot open kernel file K-none'],
  ['is empty', () => open(new Uint8Array(0)), 'Kernel K is empty'],
  ['is text', () => open(Buffer.from('hello')), 'Kernel K is not a kernel'],
  ['is zeroes', () => open(new Uint8Array(4096)), 'Kernel K is not a kernel'],
])('a file that %s is refused', (_, run, message) => {
  expect(refusal(run)).toContain(message);
});

test('a directory, a FIFO without a writer and a device are refused at once', () => {
  const fifo = `${path}-fifo`;
  execFileSync('mkfifo', [fifo]);

  expect(refusal(() => openKernel(folder))).toBe(`Kernel ${folder} is a directory`);
  expect(refusal(() => openKernel(fifo))).toBe('Kernel K-fifo is not a regular file');
  expect(refusal(() => openKernel('/dev/zero'))).toBe('Kernel /dev/zero is not a regular file');
});

test('a refused kernel keeps no descriptor', () => {
  refusal(() => open(new Uint8Array(0)));
  refusal(() => open(elfKernel({ machine: 8 })));
  refusal(() => open(bzImage({ version: 0 })));

  expect(openFiles(folder)).toEqual([]);
});

test('of a file of a tebibyte only the headers are read', () => {
  writeFileSync(path, elfKernel());
  truncateSync(path, 1024 * GIB);

  const kernel = openKernel(path);
  kernel.file.close();

  expect(kernel.entryGpa).toBe(0x10_0000);
});
