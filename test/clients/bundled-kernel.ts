/**
 * A kernel that brings its initramfs along, for clients whose config names a kernel and nothing
 * else: one more segment of the ELF, and a command line that says where it is loaded.
 */
import { readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { cached, contentKey } from '../../guest-images/cache.ts';
import type { GuestImages } from '../../guest-images/images.ts';

/** Beyond what the kernel takes for RAM by `mem=`: it copies an initramfs from there first. */
const INITRAMFS_GPA = 256 << 20;

// Offsets in the ELF header and in a program header, System V gABI 4.1 ch. 4 and 5.
const PROGRAM_HEADERS_AT = 32;
const PROGRAM_HEADERS = 56;
const PROGRAM_HEADER_BYTES = 56;
const SEGMENT_LOAD = 1;

export interface BundledKernel {
  path: string;
  /** To be added to the command line; the guest needs more than 256 MiB of RAM. */
  cmdline: string;
}

export async function bundledKernel(images: GuestImages): Promise<BundledKernel> {
  const initramfs = await readFile(images.initramfs);
  const entry = await cached('bundled-kernel', contentKey(images.key, initramfs), async (draft) => {
    const bytes = withSegment(await readFile(images.vmlinux), initramfs, INITRAMFS_GPA);
    await writeFile(join(draft, 'vmlinux'), bytes);
  });
  const cmdline = `mem=${INITRAMFS_GPA} initrdmem=${INITRAMFS_GPA},${initramfs.length}`;
  return { path: join(entry, 'vmlinux'), cmdline };
}

/** The ELF image with `bytes` as a further segment, and a longer table of them at its end. */
function withSegment(elf: Buffer, bytes: Buffer, gpa: number): Buffer {
  const tableAt = Number(elf.readBigUInt64LE(PROGRAM_HEADERS_AT));
  const count = elf.readUInt16LE(PROGRAM_HEADERS);
  const table = elf.subarray(tableAt, tableAt + count * PROGRAM_HEADER_BYTES);
  const header = Buffer.alloc(PROGRAM_HEADER_BYTES);
  header.writeUInt32LE(SEGMENT_LOAD);
  const [offset, size] = [BigInt(elf.length), BigInt(bytes.length)];
  const [virtual, physical] = [BigInt(gpa), BigInt(gpa)];
  for (const [i, field] of [offset, virtual, physical, size, size, 1n].entries())
    header.writeBigUInt64LE(field, 8 + i * 8);
  const start = Buffer.from(elf.subarray(0, 64));
  start.writeBigUInt64LE(offset + size, PROGRAM_HEADERS_AT);
  start.writeUInt16LE(count + 1, PROGRAM_HEADERS);
  return Buffer.concat([start, elf.subarray(64), bytes, table, header]);
}
