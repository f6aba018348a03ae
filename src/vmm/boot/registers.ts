/** The state in which the boot vCPU enters the kernel, and the tables in RAM which that needs. */
import { GIB, MIB, Writer } from '../../bytes.ts';
import type { Blob, BootPlan, EntryState, Segment } from '../../native-boot.ts';
import { BOOT_STACK_TOP, MEMORY } from '../layout.ts';
import type { Kernel } from './image.ts';

// Descriptor bits 40–55 without the limit's: present, flat; L or D/B says 64 or 32 bits.
const CODE_64 = 0xa09b;
const CODE_32 = 0xc09b;
const DATA = 0xc093;
const TASK = 0x008b;

const CR0_PE = 1 << 0;
const CR0_PG = 2 ** 31;
const CR4_PAE = 1 << 5;
const EFER_LME = 1 << 8;
const EFER_LMA = 1 << 10;

const FLAT = { base: 0, limit: 0xffff_ffff };

/**
 * The selectors of code and data are those that Linux's 64-bit protocol asks for, `__BOOT_CS` and
 * `__BOOT_DS`; PVH takes any. The task segment only has to be there: VMX refuses to enter without.
 */
function segments(protocol: Kernel['protocol']): { task: Segment; code: Segment; data: Segment } {
  const code = protocol.name === 'linux64' ? CODE_64 : CODE_32;
  return {
    task: { selector: 0x08, base: 0, limit: 0x67, access: TASK },
    code: { selector: 0x10, ...FLAT, access: code },
    data: { selector: 0x18, ...FLAT, access: DATA },
  };
}

/**
 * PVH: protected mode without paging, rbx the start info (Xen `misc/pvh.pandoc`).
 * Linux: long mode, rsi the zero page, an identity map (`arch/x86/boot.rst`, 64-bit boot protocol).
 */
export function entryState({ protocol, entryGpa }: Kernel): EntryState {
  const long = protocol.name === 'linux64';
  return {
    rip: entryGpa,
    rsp: BOOT_STACK_TOP,
    rbx: long ? 0 : MEMORY.startInfo.gpa,
    rsi: long ? MEMORY.zeroPage.gpa : 0,
    cr0: long ? CR0_PE + CR0_PG : CR0_PE,
    cr3: long ? MEMORY.pml4.gpa : 0,
    cr4: long ? CR4_PAE : 0,
    efer: long ? EFER_LME | EFER_LMA : 0,
    gdt: { base: MEMORY.gdt.gpa, limit: MEMORY.gdt.sizeBytes - 1 },
    idt: { base: MEMORY.idt.gpa, limit: MEMORY.idt.sizeBytes - 1 },
    ...segments(protocol),
  };
}

/** The descriptors of the entry state's segments; SDM vol. 3 §3.4.5. */
function gdt(protocol: Kernel['protocol']): Uint8Array {
  const table = new Writer(MEMORY.gdt.sizeBytes);
  for (const { selector, base, limit, access } of Object.values(segments(protocol))) {
    const units = access & 0x8000 ? Math.floor(limit / 4096) : limit;
    table
      .u16(selector, units & 0xffff)
      .u16(selector + 2, base & 0xffff)
      .u8(selector + 4, (base >>> 16) & 0xff)
      .u16(selector + 5, access | ((units >>> 16) << 8))
      .u8(selector + 7, base >>> 24);
  }
  return table.bytes;
}

const PAGE_BYTES = 2 * MIB;
const PRESENT_WRITABLE = 0b11;
const LARGE = 1 << 7;

/** What the page tables map, each address to itself. */
export const IDENTITY_MAP_BYTES = GIB;

/** Pages of 2 MiB, which every 64-bit CPU has, those of 1 GiB not. SDM vol. 3 §4.5. */
function pageTables(): Blob[] {
  const { pml4, pdpt, pd } = MEMORY;
  const leaves = new Writer(pd.sizeBytes);
  for (let i = 0; i < IDENTITY_MAP_BYTES / PAGE_BYTES; i++)
    leaves.u64(i * 8, i * PAGE_BYTES + LARGE + PRESENT_WRITABLE);
  return [
    { gpa: pml4.gpa, bytes: new Writer(8).u64(0, pdpt.gpa + PRESENT_WRITABLE).bytes },
    { gpa: pdpt.gpa, bytes: new Writer(8).u64(0, pd.gpa + PRESENT_WRITABLE).bytes },
    { gpa: pd.gpa, bytes: leaves.bytes },
  ];
}

/** The tables that the entry state points to. The rest of RAM is zero, so the IDT is empty. */
export const entryTables = (protocol: Kernel['protocol']): Blob[] => [
  { gpa: MEMORY.gdt.gpa, bytes: gdt(protocol) },
  ...(protocol.name === 'linux64' ? pageTables() : []),
];

const MISC_ENABLE_FAST_STRING = 1n;
const MTRR_ENABLED_WRITE_BACK = 0x806n;

/** As firmware would leave them. SDM vol. 4 ch. 2. */
export const BOOT_MSRS: BootPlan['msrs'] = [
  { index: 0x174, value: 0n }, // SYSENTER_CS
  { index: 0x175, value: 0n }, // SYSENTER_ESP
  { index: 0x176, value: 0n }, // SYSENTER_EIP
  { index: 0xc000_0081, value: 0n }, // STAR
  { index: 0xc000_0082, value: 0n }, // LSTAR
  { index: 0xc000_0083, value: 0n }, // CSTAR
  { index: 0xc000_0084, value: 0n }, // SYSCALL_MASK
  { index: 0xc000_0102, value: 0n }, // KERNEL_GS_BASE
  { index: 0x10, value: 0n }, // TSC
  { index: 0x1a0, value: MISC_ENABLE_FAST_STRING },
  { index: 0x2ff, value: MTRR_ENABLED_WRITE_BACK }, // MTRRdefType
];
