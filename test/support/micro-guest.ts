/**
 * Guests of a few bytes of 16-bit machine code, for the tests that need a vCPU but no kernel.
 * The code lies at `CODE_GPA`; the vCPU starts there as after a reset, but with flat segments.
 */
import { type EntryState, native, type Vm, type VmEvent } from '../../src/native.ts';

export const CODE_GPA = 0x1000;
const RAM_BYTES = 1 << 20;

const REAL_CODE = { selector: 0, base: 0, limit: 0xffff, access: 0x9b };
const REAL_DATA = { selector: 0, base: 0, limit: 0xffff, access: 0x93 };
const TASK = { selector: 0, base: 0, limit: 0xffff, access: 0x8b };

/** Real mode at `CODE_GPA`, stack below it. */
const REAL_MODE: EntryState = {
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

export class MicroGuest implements AsyncDisposable {
  readonly memory = new native.GuestMemory();
  readonly events: VmEvent[] = [];
  readonly vm: Vm;

  constructor(vcpus = 1) {
    this.memory.addRegion({ gpa: 0, sizeBytes: RAM_BYTES, shared: false, thp: false });
    const onEvent = (event: VmEvent) => void this.events.push(event);
    this.vm = new native.Vm(this.memory, { vcpus, tssGpa: 0xf800_0000, onEvent });
  }

  /** Lays `code` out and prepares the vCPUs; `vm.run()` starts them. */
  async boot(code: number[], entry: Partial<EntryState> = {}): Promise<void> {
    const cpuid = [native.supportedCpuid()];
    await this.vm.boot({
      blobs: [{ gpa: CODE_GPA, bytes: Uint8Array.from(code) }],
      cpuid,
      msrs: [],
      entry: { ...REAL_MODE, ...entry },
    });
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.vm.stop();
    await this.memory.close();
  }
}
