import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, describe, expect, test } from 'vitest';
import { GIB, KIB, MIB, Reader } from '../../../../src/bytes.ts';
import type { Blob, BootPlan } from '../../../../src/native-boot.ts';
import { ImageFile, type Kernel } from '../../../../src/vmm/boot/image.ts';
import { openKernel } from '../../../../src/vmm/boot/kernel.ts';
import { type BootOptions, planBoot } from '../../../../src/vmm/boot/plan.ts';
import {
  bzImage,
  elfKernel,
  HALT,
  notes,
  PT_NOTE,
  pvhNote,
  type SetupField,
} from '../../../support/kernels.ts';

const folder = mkdtempSync(join(tmpdir(), 'plan-'));
const files: ImageFile[] = [];
afterAll(() => {
  for (const file of files) file.close();
  rmSync(folder, { recursive: true });
});

function kernel(bytes: Uint8Array): Kernel {
  const path = join(folder, `kernel${files.length}`);
  writeFileSync(path, bytes);
  const opened = openKernel(path);
  files.push(opened.file);
  return opened;
}

function initramfs(sizeBytes: number): ImageFile {
  const path = join(folder, `initramfs${files.length}`);
  writeFileSync(path, new Uint8Array(sizeBytes));
  const file = new ImageFile('initramfs', path);
  files.push(file);
  return file;
}

const pvh = kernel(elfKernel());
const linux64 = kernel(bzImage());

const plan = (options: Partial<BootOptions>): BootPlan =>
  planBoot({
    kernel: pvh,
    initramfs: undefined,
    cmdline: '',
    ramBytes: 512 * MIB,
    tables: [],
    rsdpGpa: 0xa_0000,
    cpuid: [],
    ...options,
  });

const blobAt = (gpa: number, { blobs }: BootPlan): Blob | undefined =>
  blobs.find((blob) => blob.gpa === gpa);

function bytesAt(gpa: number, from: BootPlan): Reader {
  const blob = blobAt(gpa, from);
  if (!blob || 'fd' in blob) throw new Error(`No bytes at ${gpa}`);
  return new Reader(blob.bytes);
}

const row = (reader: Reader, at: number, words: number): number[] =>
  Array.from({ length: words }, (_, i) => reader.u32(at + 4 * i));

describe('a PVH kernel', () => {
  test('is read from its file into place, the part that is zero left alone', () => {
    const { blobs } = plan({});

    const parts = blobs.filter((blob) => 'fd' in blob);
    expect(parts).toEqual([{ gpa: 0x10_0000, fd: pvh.file.fd, offset: 64 + 2 * 56, length: 1 }]);
  });

  test('is told of command line, RSDP, memory and initramfs', () => {
    const file = initramfs(5000);

    const made = plan({ initramfs: file });

    expect(row(bytesAt(0x6000, made), 0, 14)).toEqual([
      ...[0x336ec578, 1, 0, 1], // magic, version, flags, modules
      ...[0x6040, 0, 0x2_0000, 0, 0xa_0000, 0, 0x7000, 0, 4, 0],
    ]);
    expect(row(bytesAt(0x6040, made), 0, 8)).toEqual([0x1fff_e000, 0, 5000, 0, 0, 0, 0, 0]);
    const memoryMap = bytesAt(0x7000, made);
    expect(memoryMap.sizeBytes).toBe(4 * 24);
    expect(row(memoryMap, 24, 6)).toEqual([0x10_0000, 0, 0x1ff0_0000, 0, 1, 0]);
    expect(row(memoryMap, 72, 6)).toEqual([0xe800_0000, 0, 0x1000_0000, 0, 2, 0]);
    expect(blobAt(0x1fff_e000, made)).toEqual({
      gpa: 0x1fff_e000,
      ...{ fd: file.fd, offset: 0, length: 5000 },
    });
  });

  test('has no module list without an initramfs', () => {
    const made = plan({});

    expect(row(bytesAt(0x6000, made), 12, 3)).toEqual([0, 0, 0]);
    expect(blobAt(0x6040, made)).toBeUndefined();
  });

  test('starts in 32-bit mode without paging, rbx its start info', () => {
    const flat = { base: 0, limit: 0xffff_ffff };
    expect(plan({}).entry).toEqual({
      ...{ rip: 0x10_0000, rsp: 0x8ff0, rbx: 0x6000, rsi: 0 },
      ...{ cr0: 1, cr3: 0, cr4: 0, efer: 0 },
      gdt: { base: 0x500, limit: 31 },
      idt: { base: 0x520, limit: 7 },
      code: { selector: 0x10, ...flat, access: 0xc09b },
      data: { selector: 0x18, ...flat, access: 0xc093 },
      task: { selector: 0x08, base: 0, limit: 0x67, access: 0x8b },
    });
  });

  test('finds the descriptors of its segments in the GDT', () => {
    expect(row(bytesAt(0x500, plan({})), 0, 8)).toEqual([
      ...[0, 0, 0x67, 0x8b00], // none, task
      ...[0xffff, 0xcf_9b00, 0xffff, 0xcf_9300], // code, data
    ]);
  });
});

describe('a bzImage', () => {
  test('gets a zero page: its setup header, and what it is told', () => {
    const made = plan({ kernel: linux64, initramfs: initramfs(4097), cmdline: 'quiet' });

    const page = bytesAt(0x7000, made);
    const header = bzImage();
    header.set([0xff], 0x210); // an undefined loader
    const word = (offset: number, value: number) =>
      new DataView(header.buffer).setUint32(offset, value, true);
    word(0x218, 0x1fff_e000);
    word(0x21c, 4097);
    word(0x228, 0x2_0000);
    expect(page.sizeBytes).toBe(4096);
    expect(page.bytes(0x1f1, 0x26c - 0x1f1)).toEqual(header.subarray(0x1f1, 0x26c));
    expect(page.u64(0x70)).toBe(0xa_0000);
    expect(page.u8(0x1e8)).toBe(4);
    expect(row(page, 0x2d0 + 20, 5)).toEqual([0x10_0000, 0, 0x1ff0_0000, 0, 1]);
    expect(page.u8(0x1ef)).toBe(0); // else the kernel distrusts the page and clears it
  });

  test('starts in long mode at 0x200 in its code, rsi its zero page', () => {
    expect(plan({ kernel: linux64 }).entry).toMatchObject({
      ...{ rip: 0x100_0200, rsp: 0x8ff0, rbx: 0, rsi: 0x7000 },
      ...{ cr0: 0x8000_0001, cr3: 0xa000, cr4: 0x20, efer: 0x500 },
      code: { selector: 0x10, access: 0xa09b },
      data: { selector: 0x18, access: 0xc093 },
    });
  });

  test('finds the first GiB mapped to itself in pages of 2 MiB', () => {
    const made = plan({ kernel: linux64 });

    expect(bytesAt(0xa000, made).u64(0)).toBe(0xb003);
    expect(bytesAt(0xb000, made).u64(0)).toBe(0xc003);
    const leaves = bytesAt(0xc000, made);
    expect(leaves.sizeBytes).toBe(4096);
    for (let i = 0; i < 512; i++) expect(leaves.u64(8 * i)).toBe(i * 2 * MIB + 0x83);
  });
});

describe('the command line', () => {
  test('goes as UTF-8 with a zero at its end', () => {
    expect(bytesAt(0x2_0000, plan({ cmdline: 'né=ü' })).bytes(0, 7)).toEqual(
      Uint8Array.from(Buffer.from('né=ü\0')),
    );
  });

  test('of 64 KiB less one fits an ELF kernel', () => {
    expect(bytesAt(0x2_0000, plan({ cmdline: 'x'.repeat(65535) })).sizeBytes).toBe(65536);
  });

  test.each([
    ['too long for any kernel', pvh, 'x'.repeat(65536), /of 65536 bytes .* than the 65535 that/],
    [
      'too long for this bzImage',
      linux64,
      'é'.repeat(1024),
      /of 2048 bytes .* 2047 that kernel .*kernel1 takes/,
    ],
    ['with a zero byte', pvh, 'abc\0def', /Command line has a zero byte at 3/],
  ])('is refused: %s', (_, kernel, cmdline, message) => {
    expect(() => plan({ kernel, cmdline })).toThrow(message);
  });
});

describe('the initramfs', () => {
  test('of 1756 KiB lies at 0x1fe49000 of 512 MiB', () => {
    const made = plan({ initramfs: initramfs(1756 * KIB) });
    expect(blobAt(0x1fe4_9000, made)).toMatchObject({ length: 1756 * KIB });
  });

  test.each([
    ['the hole', pvh, 0xbfff_f000],
    ['the highest address that the kernel allows', linux64, 0x7fff_f000],
  ])('lies below %s', (_, kernel, gpa) => {
    expect(
      blobAt(gpa, plan({ kernel, initramfs: initramfs(10), ramBytes: 8 * GIB })),
    ).toBeDefined();
  });

  test('may begin where the kernel ends, bss and all, and not a page earlier', () => {
    const sizeBytes = 64 * KIB + 1;
    const file = initramfs(sizeBytes);
    const fields: Partial<Record<SetupField, number>> = { init_size: 0x1f_0000 - 0x1000 };
    const fits = kernel(bzImage(fields));
    const tooLarge = kernel(bzImage({ init_size: 0x1f_0000 }));

    expect(
      blobAt(0x11e_f000, plan({ kernel: fits, initramfs: file, ramBytes: 18 * MIB })),
    ).toBeDefined();
    expect(() => plan({ kernel: tooLarge, initramfs: file, ramBytes: 18 * MIB })).toThrow(
      /has 65537 bytes, which do not fit .* 0x11f0000 and 0x1200000: give the VM 19 MiB/,
    );
    expect(() => plan({ kernel: tooLarge, initramfs: file, ramBytes: 19 * MIB })).not.toThrow();
  });

  test('above what the kernel allows is refused, more memory being no remedy', () => {
    const low = kernel(bzImage({ initrd_addr_max: 0x103_ffff }));
    expect(() => plan({ kernel: low, initramfs: initramfs(1) })).toThrow(
      /0x1400000 and 0x1040000: it would have to end by 0x1040000/,
    );
  });
});

describe('RAM', () => {
  const high = kernel(
    elfKernel({
      segments: [
        { gpa: 4 * GIB, bytes: HALT },
        { type: PT_NOTE, gpa: 0, bytes: notes([pvhNote(4 * GIB)]) },
      ],
    }),
  );
  test.each([
    [
      'of 19 MiB for a kernel of 20',
      linux64,
      19 * MIB,
      /up to 0x1400000, .* none from 0x1300000: give the VM 20 MiB/,
    ],
    [
      'of 1 MiB for a kernel there',
      pvh,
      MIB,
      /up to 0x101000, .* none from 0x100000: give the VM 2 MiB/,
    ],
    [
      'above the hole for a kernel',
      high,
      8 * GIB,
      /up to 0x100000001, .* it would have to end by 0xc0000000/,
    ],
    [
      'of 512 KiB',
      pvh,
      512 * KIB,
      /Memory of 524288 bytes is too small .* give the VM 1 MiB or more/,
    ],
  ])('%s is refused', (_, kernel, ramBytes, message) => {
    expect(() => plan({ kernel, ramBytes })).toThrow(message);
  });
});

test('the firmware tables and the CPUs go into the plan as they are', () => {
  const tables = [{ gpa: 0xa_0000, bytes: HALT }];
  const cpuid = [[{ function: 1, index: 0, flags: 0, eax: 1, ebx: 2, ecx: 3, edx: 4 }]];

  const made = plan({ tables, cpuid });

  expect(made.blobs).toContain(tables[0]);
  expect(made.cpuid).toBe(cpuid);
});

test.each([
  ['that overlap', [{ gpa: 0x6010, bytes: HALT }], /Two things lie at 0x6010/],
  ['outside RAM', [{ gpa: 0xc000_0000, bytes: HALT }], /0xc0000000–0xc0000001 is not RAM/],
])('tables %s are a bug that ends the process', (_, tables, message) => {
  expect(() => plan({ tables })).toThrow(message);
});
