/** What a PVH kernel is told at its entry. Xen `public/arch-x86/hvm/start_info.h`, version 1. */
import { Writer } from '../../bytes.ts';
import type { Blob } from '../../native-boot.ts';
import { MEMORY } from '../layout.ts';
import type { Handover } from './image.ts';

const MAGIC = 0x336ec578;
const START_INFO_BYTES = 56;
const MODULE_BYTES = 32;
const MEMORY_MAP_ENTRY_BYTES = 24;

/** The start info, and the memory map and the list of one module that it points to. */
export function startInfo({ cmdlineGpa, initramfs, rsdpGpa, memoryMap }: Handover): Blob[] {
  const info = new Writer(START_INFO_BYTES)
    .u32(0, MAGIC)
    .u32(4, 1)
    .u32(12, initramfs ? 1 : 0)
    .u64(16, initramfs ? MEMORY.moduleList.gpa : 0)
    .u64(24, cmdlineGpa)
    .u64(32, rsdpGpa)
    .u64(40, MEMORY.zeroPage.gpa)
    .u32(48, memoryMap.length);
  const map = new Writer(memoryMap.length * MEMORY_MAP_ENTRY_BYTES);
  for (const [i, { gpa, sizeBytes, type }] of memoryMap.entries()) {
    const at = i * MEMORY_MAP_ENTRY_BYTES;
    map
      .u64(at, gpa)
      .u64(at + 8, sizeBytes)
      .u32(at + 16, type);
  }
  const blobs = [
    { gpa: MEMORY.startInfo.gpa, bytes: info.bytes },
    { gpa: MEMORY.zeroPage.gpa, bytes: map.bytes },
  ];
  if (!initramfs) return blobs;
  const module = new Writer(MODULE_BYTES).u64(0, initramfs.gpa).u64(8, initramfs.sizeBytes);
  return [...blobs, { gpa: MEMORY.moduleList.gpa, bytes: module.bytes }];
}
