/**
 * Guests of a few bytes of machine code, for the tests that need a vCPU but no kernel. The code
 * lies at `CODE_GPA` in 1 MiB of RAM, and the boot vCPU starts there in the mode that the test
 * names.
 */
import { type AccessHandler, native, type Vm, type VmEvent } from '../../src/native.ts';
import type { Blob, EntryState } from '../../src/native-boot.ts';
import { forever, movEax, out, store } from './machine-code.ts';

const CODE_GPA = 0x1000;
/** Where guests leave what the test looks at. */
export const RESULT_GPA = 0x8000;
/** An address that is not RAM, within what the page tables of `LONG_MODE` map. */
export const MMIO_GPA = 0x2000_0000;
const RAM_BYTES = 1 << 20;

const REAL_CODE = { selector: 0, base: 0, limit: 0xffff, access: 0x9b };
const REAL_DATA = { selector: 0, base: 0, limit: 0xffff, access: 0x93 };
const TASK = { selector: 0, base: 0, limit: 0xffff, access: 0x8b };
const FLAT_32_CODE = { selector: 8, base: 0, limit: 0xffff_ffff, access: 0xc09b };
const FLAT_64_CODE = { selector: 8, base: 0, limit: 0xffff_ffff, access: 0xa09b };
const FLAT_DATA = { selector: 16, base: 0, limit: 0xffff_ffff, access: 0xc093 };

/** 16-bit code at `CODE_GPA`, stack below it. */
export const REAL_MODE: EntryState = {
  rip: CODE_GPA,
  rsp: CODE_GPA,
  rbx: 0,
  rsi: 0,
  cr0: 0x10,
  cr3: 0,
  cr4: 0,
  efer: 0,
  gdt: { base: 0, limit: 0xffff },
  idt: { base: 0, limit: 0x3ff },
  code: REAL_CODE,
  data: REAL_DATA,
  task: TASK,
};

/** 32-bit code, flat segments, no paging. */
export const PROTECTED_MODE: EntryState = {
  ...REAL_MODE,
  cr0: 0x11,
  idt: { base: 0, limit: 0 }, // so that any exception is a triple fault, not a run into the weeds
  code: FLAT_32_CODE,
  data: FLAT_DATA,
};

const PML4_GPA = 0x9000;
const PDPT_GPA = 0xa000;
const PAGE_DIRECTORY_GPA = 0xb000;

/** 64-bit code; the first GiB is mapped to itself by 2 MiB pages. */
export const LONG_MODE: EntryState = {
  ...PROTECTED_MODE,
  cr0: 0x8000_0011,
  cr3: PML4_GPA,
  cr4: 0x20, // PAE
  efer: 0x500, // LME, LMA
  code: FLAT_64_CODE,
};

/** The page tables of `LONG_MODE`. */
export function identityPageTables(): Blob[] {
  const table = (entry: (index: number) => bigint) =>
    new Uint8Array(BigUint64Array.from({ length: 512 }, (_, index) => entry(index)).buffer);
  const first = (gpa: number) => table((index) => (index === 0 ? BigInt(gpa) | 3n : 0n));
  return [
    { gpa: PML4_GPA, bytes: first(PDPT_GPA) },
    { gpa: PDPT_GPA, bytes: first(PAGE_DIRECTORY_GPA) },
    { gpa: PAGE_DIRECTORY_GPA, bytes: table((index) => (BigInt(index) << 21n) | 0x83n) },
  ];
}

export interface Seen {
  kind: 'read' | 'write';
  offset: number;
  sizeBytes: number;
  value?: number;
}

/** A handler that notes what it is asked. */
export class Recorder implements AccessHandler {
  readonly seen: Seen[] = [];
  readonly #answer: (offset: number) => number;

  constructor(answer: (offset: number) => number = () => 0) {
    this.#answer = answer;
  }

  read(offset: number, sizeBytes: number): number {
    this.seen.push({ kind: 'read', offset, sizeBytes });
    return this.#answer(offset);
  }

  write(offset: number, sizeBytes: number, value: number): void {
    this.seen.push({ kind: 'write', offset, sizeBytes, value });
  }
}

/** Every byte written here counts as one `DONE`. */
export const DONE_PORT = 0xf4;
/** Instructions that tell the test that the guest has come here. */
export const DONE = out(DONE_PORT);

/** Where the other vCPUs start, in 16-bit code, after `START_APS`. */
export const AP_CODE_GPA = 0x2000;
const LAPIC_COMMAND_GPA = 0xfee0_0300;
const TO_ALL_BUT_SELF = 0xc_4000;
/** INIT and SIPI to all other vCPUs by the LAPIC's command register. Intel SDM 3A §11.4.4. */
export const START_APS = [
  ...movEax(TO_ALL_BUT_SELF | 0x500),
  ...store(LAPIC_COMMAND_GPA, 4),
  ...movEax(TO_ALL_BUT_SELF | 0x600 | (AP_CODE_GPA >> 12)),
  ...store(LAPIC_COMMAND_GPA, 4),
];

export interface GuestOptions {
  vcpus?: number;
  /** As many as `vcpus` if not given. */
  vcpusMax?: number;
  /** RAM is a memfd, which /proc/self/maps names. */
  shared?: boolean;
}

export class MicroGuest implements AsyncDisposable {
  readonly memory = new native.GuestMemory();
  readonly events: VmEvent[] = [];
  readonly vm: Vm;
  readonly #vcpus: number;
  #done = 0;

  constructor({ vcpus = 1, vcpusMax = vcpus, shared = false }: GuestOptions = {}) {
    this.#vcpus = vcpus;
    this.memory.addRegion({ gpa: 0, sizeBytes: RAM_BYTES, shared, thp: false });
    const onEvent = (event: VmEvent) => void this.events.push(event);
    const ids = Array.from({ length: vcpus }, (_, apicId) => ({ apicId, hostCpus: [] }));
    this.vm = new native.Vm(this.memory, { vcpus: ids, vcpusMax, tssGpa: 0xf800_0000, onEvent });
    const done = { read: () => 0, write: () => void this.#done++ };
    this.vm.claim({ space: 'port', base: DONE_PORT, sizeBytes: 1 }, done);
  }

  /** Lays `code` out and prepares the vCPUs; `vm.run()` starts them. */
  async boot(code: number[], entry: EntryState = REAL_MODE, blobs: Blob[] = []): Promise<void> {
    const cpuid = Array.from({ length: this.#vcpus }, () => native.supportedCpuid());
    await this.vm.boot({
      blobs: [{ gpa: CODE_GPA, bytes: Uint8Array.from(code) }, ...blobs],
      cpuid,
      msrs: [],
      entry,
    });
  }

  /** Boots and runs 32-bit code. */
  async start(code: number[]): Promise<void> {
    await this.boot(code, PROTECTED_MODE);
    this.vm.run();
  }

  /** Boots and runs: every vCPU writes to `port`, for ever. */
  async startStorm(port: number): Promise<void> {
    const storm16 = [0xba, port & 0xff, port >> 8, 0xee, 0xeb, 0xfd]; // mov dx; out dx, al; jmp
    this.memory.write(AP_CODE_GPA, Uint8Array.from(storm16));
    await this.start([...START_APS, ...forever(out(port))]);
  }

  /** Makes and plugs all vCPUs from `first` up to, and without, `end`. */
  async plug(first: number, end: number): Promise<void> {
    const vcpus = Array.from({ length: end - first }, (_, i) => first + i);
    const cpuid = native.supportedCpuid();
    await this.vm.makeVcpus(
      first,
      vcpus.map((apicId) => ({ apicId, hostCpus: [], cpuid })),
    );
    await this.vm.whenReset(first, end);
    for (const vcpu of vcpus) this.vm.plug(vcpu);
  }

  /** How often the guest has come to `DONE`. */
  get doneCount(): number {
    return this.#done;
  }

  /** The 32-bit number at `gpa`. */
  peek(gpa: number): number {
    const bytes = new Uint32Array(1);
    this.memory.read(gpa, new Uint8Array(bytes.buffer));
    return bytes[0] ?? 0;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.vm.stop();
    await this.memory.close();
  }
}

/** Resolves when `condition` holds; the test's own timeout is the limit. */
export async function until(condition: () => boolean): Promise<void> {
  while (!condition()) await new Promise((resolve) => setTimeout(resolve, 1));
}
