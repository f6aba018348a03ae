import { setTimeout as sleep } from 'node:timers/promises';
import { expect, test } from 'vitest';
import { PciBus } from '../../src/devices/pci/bus.ts';
import { VirtioPci } from '../../src/devices/virtio/transport-pci.ts';
import { type Claim, native } from '../../src/native.ts';
import * as code from '../support/machine-code.ts';
import { DONE, MicroGuest, PROTECTED_MODE, RESULT_GPA, until } from '../support/micro-guest.ts';
import { RingDriver } from '../support/ring-driver.ts';
import { Echo } from '../unit/support/echo.ts';

const BAR_GPA = 0xe7f8_0000;
/** Where the test has the guest move it. */
const MOVED_GPA = 0xc010_0000;
const NOTIFY = 0x6000;
const GO_GPA = 0x8100;
const AGAIN_GPA = 0x8104;
const PENDING = 0x4_8000;
const RINGS_GPA = 0x1_0000;
const TEXT_GPA = 0x2_0000;
const ROOM_GPA = 0x2_1000;
const TEXT = Buffer.from('over PCI');

const GDT_GPA = 0x600;
const IDT_GPA = 0x3000;
const HANDLER_GPA = 0x4000;
const VECTOR = 0x41;
const LAPIC_EOI = 0xfee0_00b0;
const LAPIC_SPURIOUS = 0xfee0_00f0;

const SLEEP_FOREVER = [0xfb, ...code.HLT, 0xeb, 0xfd]; // sti; hlt; and again
/** add esp, 12: KVM's instruction emulator, which some hosts have alone, knows no 32-bit iret. */
const DROP_FRAME = [0x83, 0xc4, 12];
/** Counts, and sleeps on in place of the code that it interrupted, which does nothing else. */
const COUNT_IT = [
  ...code.increment(RESULT_GPA),
  ...code.store(LAPIC_EOI, 4),
  ...DROP_FRAME,
  ...SLEEP_FOREVER,
];

const u64 = (...values: bigint[]): Uint8Array => new Uint8Array(BigUint64Array.from(values).buffer);

/** Flat segments, and a gate that runs `COUNT_IT` at `VECTOR`. */
const TABLES = [
  { gpa: GDT_GPA, bytes: u64(0n, 0x00cf_9b00_0000_ffffn, 0x00cf_9300_0000_ffffn) },
  { gpa: IDT_GPA + 8 * VECTOR, bytes: u64(0x0000_8e00_0008_0000n | BigInt(HANDLER_GPA)) },
  { gpa: HANDLER_GPA, bytes: Uint8Array.from(COUNT_IT) },
];
const ENTRY = {
  ...PROTECTED_MODE,
  gdt: { base: GDT_GPA, limit: 23 },
  idt: { base: IDT_GPA, limit: 8 * (VECTOR + 1) - 1 },
};

const set = (gpa: number, sizeBytes: number, value: number): number[] => [
  ...code.movEax(value),
  ...code.store(gpa, sizeBytes),
];

/** A write to the configuration space of slot 1. */
const config = (offset: number, sizeBytes: number, value: number): number[] => [
  ...code.movEax(0x8000_0800 + (offset & ~3)),
  ...code.out(0xcf8, 4),
  ...code.movEax(value),
  ...code.out(0xcfc + (offset & 3), sizeBytes),
];

/** Makes the chain at head 0 available. */
const OFFER = set(RINGS_GPA + 0x1002, 2, 1);
/** Until the test writes there: load; test eax, eax; jz back to the load. */
const awaitGo = (gpa: number): number[] => [...code.load(gpa, 4), 0x85, 0xc0, 0x74, 0xf7];

/** As drivers do it: features, one queue, its vector, and off. */
const startDevice = ({ vectorControl = 0, descGpa = RINGS_GPA } = {}): number[] => [
  ...set(BAR_GPA + 20, 1, 1),
  ...set(BAR_GPA + 20, 1, 3),
  ...set(BAR_GPA + 8, 4, 1),
  ...set(BAR_GPA + 12, 4, 1),
  ...set(BAR_GPA + 20, 1, 0xb),
  ...[0xfee0_0000, 0, VECTOR, vectorControl].flatMap((value, word) =>
    set(BAR_GPA + 0x8010 + 4 * word, 4, value),
  ),
  ...config(0x9a, 2, 0x8000),
  ...set(BAR_GPA + 24, 2, 8),
  ...set(BAR_GPA + 26, 2, 1),
  ...set(BAR_GPA + 32, 4, descGpa),
  ...set(BAR_GPA + 40, 4, RINGS_GPA + 0x1000),
  ...set(BAR_GPA + 48, 4, RINGS_GPA + 0x2000),
  ...set(BAR_GPA + 28, 2, 1),
  ...set(BAR_GPA + 20, 1, 0xf),
];

/** A micro-guest with a toy device in slot 1. */
class Machine implements AsyncDisposable {
  readonly guest = new MicroGuest();
  readonly driver = new RingDriver(this.guest.memory, { size: 8, ringsGpa: RINGS_GPA });
  readonly device = new Echo({ queueSizes: [8] });
  readonly pci: VirtioPci;
  readonly warnings: string[] = [];
  /** Where in the BAR the guest wrote, as far as JavaScript heard of it. */
  readonly writes: number[] = [];

  constructor() {
    const { vm, memory } = this.guest;
    const bus = new PciBus({
      ports: { base: 0xcf8, address: vm.pciAddress(0xcf8) },
      ecam: { gpa: 0xe800_0000, sizeBytes: 1 << 20 },
      window32: { gpa: 0xc000_0000, sizeBytes: 1 << 29 },
      window64: { gpa: 2 ** 32, sizeBytes: 1 << 30 },
      lineGsi: (slot) => 16 + (slot % 8),
    });
    for (const claim of bus.data.claims) vm.claim(claim, bus.data);
    this.pci = new VirtioPci({
      device: this.device,
      memory,
      native,
      vm: {
        claim: (claim: Claim) =>
          vm.claim(claim, {
            read: (offset, sizeBytes) => this.pci.read(offset, sizeBytes),
            write: (offset, sizeBytes, value) => {
              this.writes.push(offset);
              void this.pci.write(offset, sizeBytes, value);
            },
          }),
        release: (claim) => vm.release(claim),
        attachKick: (gpa, kick) => vm.attachKick(gpa, kick),
        detachKick: (gpa, kick) => vm.detachKick(gpa, kick),
        claimKick: (gpa, kick, domains) => vm.claimKick(gpa, kick, domains),
        releaseKick: (gpa) => vm.releaseKick(gpa),
        attachWindow: (gpa, window) => vm.attachWindow(gpa, window),
        detachWindow: (window) => vm.detachWindow(window),
        msi: (irq) => vm.msi(irq),
      },
      bar: { width: 32, gpa: BAR_GPA },
      onActivated: () => {},
      onReset: () => {},
      onWarning: (message) => this.warnings.push(message),
    });
    bus.add(1, this.pci.space);
  }

  /** The guest does `program`, then sleeps and counts its interrupts. */
  async run(program: number[]): Promise<void> {
    const apic = set(LAPIC_SPURIOUS, 4, 0x1ff);
    await this.guest.boot([...apic, ...program, ...DONE, ...SLEEP_FOREVER], ENTRY, TABLES);
    this.guest.memory.write(TEXT_GPA, TEXT);
    this.driver.describe(0, [
      { gpa: TEXT_GPA, sizeBytes: TEXT.length },
      { gpa: ROOM_GPA, sizeBytes: 64, write: true },
    ]);
    this.guest.vm.run();
    await until(() => this.guest.doneCount === 1);
  }

  /** Has a guest that waits at `awaitGo` go on. */
  go(gpa: number): void {
    this.guest.memory.write(gpa, Uint8Array.of(1));
  }

  /** Kicks that came to JavaScript. */
  get kicksHeard(): number[] {
    return this.writes.filter((offset) => offset >= NOTIFY && offset < 0x8000);
  }

  /** What the device wrote into the room of the request. */
  answer(): string {
    const bytes = Buffer.alloc(TEXT.length);
    this.guest.memory.read(ROOM_GPA, bytes);
    return bytes.toString();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.guest.vm.stop();
    await this.pci[Symbol.asyncDispose]();
    this.driver.close();
    await this.guest.memory.close();
  }
}

/** Long enough for what must not happen, and for a queue that is served without a kick. */
const settle = () => sleep(30);

test('a guest finds a device, sets it up, kicks it within KVM, and gets its interrupt', async () => {
  await using machine = new Machine();

  await machine.run([
    ...config(0x04, 2, 6),
    ...startDevice(),
    ...DONE,
    ...awaitGo(GO_GPA),
    ...OFFER,
    ...set(BAR_GPA + NOTIFY, 2, 0),
  ]);
  await settle();
  machine.go(GO_GPA);
  await until(() => machine.guest.peek(RESULT_GPA) === 1);

  expect(machine.driver.used()).toEqual([{ head: 0, writtenBytes: TEXT.length }]);
  expect(machine.answer()).toBe('over PCI');
  expect(machine.kicksHeard).toEqual([]);
  expect(machine.warnings).toEqual([]);
});

test('a BAR that the guest moves takes kicks along, and the old place is empty', async () => {
  await using machine = new Machine();

  await machine.run([
    ...config(0x04, 2, 6),
    ...startDevice(),
    ...config(0x10, 4, MOVED_GPA),
    ...DONE,
    ...awaitGo(GO_GPA),
    ...OFFER,
    ...set(BAR_GPA + NOTIFY, 2, 0),
    ...code.load(BAR_GPA + 20, 1),
    ...code.store(RESULT_GPA + 4, 4),
    ...code.load(MOVED_GPA + 20, 1),
    ...code.store(RESULT_GPA + 8, 4),
    ...DONE,
    ...awaitGo(AGAIN_GPA),
    ...set(MOVED_GPA + NOTIFY, 2, 0),
  ]);
  await settle();
  machine.go(GO_GPA);
  await until(() => machine.guest.doneCount === 2);
  await settle();
  expect(machine.driver.used()).toEqual([]);
  machine.go(AGAIN_GPA);
  await until(() => machine.guest.peek(RESULT_GPA) === 1);

  const statuses = [4, 8].map((at) => machine.guest.peek(RESULT_GPA + at) & 0xff);
  expect(statuses).toEqual([0xff, 0xf]);
  expect(machine.kicksHeard).toEqual([]);
});

test('a masked vector waits, its pending bit is set, and it comes when unmasked', async () => {
  await using machine = new Machine();

  await machine.run([
    ...config(0x04, 2, 6),
    ...startDevice({ vectorControl: 1 }),
    ...OFFER,
    ...set(BAR_GPA + NOTIFY, 2, 0),
  ]);
  await until(() => machine.driver.used().length === 1);
  expect([machine.guest.peek(RESULT_GPA), machine.pci.read(PENDING, 4)]).toEqual([0, 0b10]);

  void machine.pci.write(0x801c, 4, 0);
  await until(() => machine.guest.peek(RESULT_GPA) === 1);
  expect(machine.pci.read(PENDING, 4)).toBe(0);
});

test('rings outside RAM break the device alone: it asks for a reset, and the guest goes on', async () => {
  await using machine = new Machine();

  await machine.run([
    ...config(0x04, 2, 6),
    ...startDevice({ descGpa: 0xf000_0000 }),
    ...OFFER,
    ...set(BAR_GPA + NOTIFY, 2, 0),
  ]);
  await until(() => machine.warnings.length === 1);

  expect(machine.warnings).toEqual(['Queue 0 is broken: descriptor table outside RAM']);
  expect(machine.pci.read(20, 1)).toBe(0x4f);
  void machine.pci.write(20, 1, 0);
  await until(() => machine.pci.read(20, 1) === 0);
});
