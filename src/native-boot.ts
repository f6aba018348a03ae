/** What of the native core (native.ts) is about how a VM starts. */

/** One CPUID leaf, `struct kvm_cpuid_entry2`. All are unsigned 32-bit. */
export interface CpuidEntry {
  function: number;
  index: number;
  /** Bit 0: `index` is significant. */
  flags: number;
  eax: number;
  ebx: number;
  ecx: number;
  edx: number;
}

/** A segment register with its hidden part; `access` is bits 40–55 of a descriptor, limit apart. */
export interface Segment {
  selector: number;
  base: number;
  limit: number;
  access: number;
}

/** How the boot vCPU starts. What is not named stays as after reset. */
export interface EntryState {
  rip: number;
  rsp: number;
  rbx: number;
  rsi: number;
  cr0: number;
  cr3: number;
  cr4: number;
  efer: number;
  gdt: { base: number; limit: number };
  idt: { base: number; limit: number };
  code: Segment;
  data: Segment;
  task: Segment;
}

/** What lies in RAM before the first instruction: bytes, or a part of a file. */
export type Blob =
  | { gpa: number; bytes: Uint8Array }
  | { gpa: number; fd: number; offset: number; length: number };

/** A whole boot as data: computed and validated in TypeScript, bounds-checked and done in C++. */
export interface BootPlan {
  blobs: Blob[];
  /** One list a vCPU: APIC ids differ. */
  cpuid: CpuidEntry[][];
  /** Set on every vCPU. */
  msrs: { index: number; value: bigint }[];
  entry: EntryState;
}
