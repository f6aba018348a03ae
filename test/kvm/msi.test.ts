import { setTimeout as sleep } from 'node:timers/promises';
import { expect, test } from 'vitest';
import { type EventFd, type Msi, native } from '../../src/native.ts';
import { HLT, increment, input, movEax, store } from '../support/machine-code.ts';
import {
  DONE,
  MicroGuest,
  MMIO_GPA,
  PROTECTED_MODE,
  RESULT_GPA,
  Recorder,
  until,
} from '../support/micro-guest.ts';
import { RingDriver } from '../support/ring-driver.ts';

const VECTOR = 0x40;
const VECTORS = 3;
const LINE_GSI = 20;
const LINE_VECTOR = VECTOR + 2;
const ROOM_GPA = 0x2_0000;
const MSI_ADDRESS = { low: 0xfee0_0000, high: 0 };

const GDT_GPA = 0x5000;
const IDT_GPA = 0x6000;
const HANDLERS_GPA = 0x7000;
const HANDLER_BYTES = 0x40;

const LAPIC_EOI_GPA = 0xfee0_00b0;
const LAPIC_ENABLE = [...movEax(0x1ff), ...store(0xfee0_00f0, 4)];
const ioapicEnableLine = (trigger: 'edge' | 'level') => [
  ...movEax(0x10 + 2 * LINE_GSI),
  ...store(0xfec0_0000, 4),
  ...movEax(LINE_VECTOR + (trigger === 'level' ? 1 << 15 : 0)),
  ...store(0xfec0_0010, 4),
];
const SLEEP_FOREVER = [0xfb, ...HLT, 0xeb, 0xfd]; // sti; hlt; and again
/** add esp, 12: KVM's instruction emulator, which some hosts have alone, knows no 32-bit iret. */
const DROP_FRAME = [0x83, 0xc4, 12];

const FLAT_DESCRIPTORS = BigUint64Array.of(0n, 0x00cf_9b00_0000_ffffn, 0x00cf_9300_0000_ffffn);
const ENTRY = {
  ...PROTECTED_MODE,
  gdt: { base: GDT_GPA, limit: FLAT_DESCRIPTORS.byteLength - 1 },
  idt: { base: IDT_GPA, limit: 0x7ff },
};

/** A 32-bit interrupt gate. Intel SDM 3A §6.11. */
const gate = (gpa: number) => BigInt(gpa) | (8n << 16n) | (0x8e00n << 32n);

/**
 * Counts in a 32-bit number of its own from `RESULT_GPA` on, and sleeps on in place of the code that
 * it interrupted, which does nothing else.
 */
const handler = (index: number) => [
  ...increment(RESULT_GPA + 4 * index),
  ...store(LAPIC_EOI_GPA, 4),
  ...DROP_FRAME,
  ...SLEEP_FOREVER,
];

/** A guest that does `work`, then sleeps and counts its interrupts. */
async function startSleeper(
  guest: MicroGuest,
  work: number[] = [],
  trigger: 'edge' | 'level' = 'edge',
): Promise<void> {
  const indices = Array.from({ length: VECTORS }, (_, index) => index);
  const at = (index: number) => HANDLERS_GPA + index * HANDLER_BYTES;
  const gates = BigUint64Array.from(indices, (index) => gate(at(index)));
  const handlers = indices.map((index) => ({
    gpa: at(index),
    bytes: Uint8Array.from(handler(index)),
  }));
  const setUp = [...LAPIC_ENABLE, ...ioapicEnableLine(trigger), ...DONE, ...work];
  await guest.boot([...setUp, ...SLEEP_FOREVER], ENTRY, [
    { gpa: GDT_GPA, bytes: new Uint8Array(FLAT_DESCRIPTORS.buffer) },
    { gpa: IDT_GPA + 8 * VECTOR, bytes: new Uint8Array(gates.buffer) },
    ...handlers,
  ]);
  guest.vm.run();
  await until(() => guest.doneCount === 1);
}

const counts = (guest: MicroGuest) =>
  Array.from({ length: VECTORS }, (_, index) => guest.peek(RESULT_GPA + 4 * index));

/** Long enough for an interrupt that must not come. */
const settle = () => sleep(30);

class Interrupt {
  readonly event: EventFd = new native.EventFd();
  readonly msi: Msi;

  constructor(guest: MicroGuest, vector = VECTOR) {
    this.msi = guest.vm.msi(this.event);
    this.msi.route(MSI_ADDRESS, vector);
  }

  async close(): Promise<void> {
    this.event.close();
    await this.msi.close();
  }
}

test('a signal runs the handler that its message names', async () => {
  await using guest = new MicroGuest();
  const first = new Interrupt(guest, VECTOR);
  const second = new Interrupt(guest, VECTOR + 1);
  await first.msi.mask(false);
  await second.msi.mask(false);
  await startSleeper(guest);

  for (let count = 1; count <= 5; count++) {
    second.event.signal();
    await until(() => guest.peek(RESULT_GPA + 4) === count);
  }
  expect(counts(guest)).toEqual([0, 5, 0]);
  await first.close();
  await second.close();
});

test('signals wait while masked, come as one when unmasked, and not again', async () => {
  await using guest = new MicroGuest();
  const { event, msi } = new Interrupt(guest);
  await startSleeper(guest);

  for (let signals = 0; signals < 3; signals++) event.signal();
  await settle();
  const masked = { counts: counts(guest), pending: event.pending() };
  await msi.mask(false);
  await until(() => guest.peek(RESULT_GPA) === 1);
  const pending = event.pending();
  for (const mask of [true, false, true, false]) await msi.mask(mask);
  await settle();

  expect(masked).toEqual({ counts: [0, 0, 0], pending: true });
  expect(pending).toBe(false);
  expect(counts(guest)).toEqual([1, 0, 0]);
});

test('no signal is lost or doubled, however often it is masked meanwhile', async () => {
  await using guest = new MicroGuest();
  const { event, msi } = new Interrupt(guest);
  await startSleeper(guest);

  for (let count = 1; count <= 200; count++) {
    await msi.mask(count % 3 === 0);
    event.signal();
    await msi.mask(count % 2 === 0);
    await msi.mask(false);
    await until(() => guest.peek(RESULT_GPA) === count);
  }
  await settle();

  expect(counts(guest)).toEqual([200, 0, 0]);
});

test('a message that changes is what is sent from then on, masked meanwhile or not', async () => {
  await using guest = new MicroGuest();
  const { event, msi } = new Interrupt(guest);
  await startSleeper(guest);
  await msi.mask(false);

  msi.route(MSI_ADDRESS, VECTOR + 1);
  await msi.mask(false);
  event.signal();
  await until(() => guest.peek(RESULT_GPA + 4) === 1);
  await msi.mask(true);
  msi.route(MSI_ADDRESS, VECTOR);
  event.signal();
  await msi.mask(false);
  await until(() => guest.peek(RESULT_GPA) === 1);

  expect(counts(guest)).toEqual([1, 1, 0]);
});

test('one that is closed sends nothing, and the others go on', async () => {
  await using guest = new MicroGuest();
  const first = new Interrupt(guest, VECTOR);
  const second = new Interrupt(guest, VECTOR + 1);
  await startSleeper(guest);
  await first.msi.mask(false);
  await second.msi.mask(false);

  await first.msi.close();
  await first.msi.close();
  first.event.signal();
  await first.msi.mask(false);
  const third = new Interrupt(guest, VECTOR + 1);
  await third.msi.mask(false);
  third.event.signal();
  await until(() => guest.peek(RESULT_GPA + 4) === 1);
  second.event.signal();
  await until(() => guest.peek(RESULT_GPA + 4) === 2);

  expect(counts(guest)).toEqual([0, 2, 0]);
});

test('interrupt lines stay wired when there are messages', async () => {
  await using guest = new MicroGuest();
  const line = guest.vm.irq(LINE_GSI);
  await new Interrupt(guest).msi.mask(false);
  await startSleeper(guest);

  for (const isHigh of [true, false]) line.set(isHigh); // of an edge-triggered entry

  await until(() => guest.peek(RESULT_GPA + 8) === 1);
});

test('a line that rose while the guest had it masked is heard of, until it falls', async () => {
  await using guest = new MicroGuest();
  const line = guest.vm.irq(LINE_GSI);
  line.set(true);
  await startSleeper(guest, [], 'level');
  const heard = () => guest.peek(RESULT_GPA + 8);

  await until(() => heard() > 1);
  line.set(false);
  await settle();
  const before = heard();
  await settle();

  expect(heard()).toBe(before);
});

test('there are some four thousand, and closed ones are given out again', async () => {
  await using guest = new MicroGuest();
  const event = new native.EventFd();
  const all: Msi[] = [];
  const addUntilRefused = () => {
    for (;;) all.push(guest.vm.msi(event));
  };

  expect(addUntilRefused).toThrow(expect.objectContaining({ code: 'ENOSPC' }));
  expect(all).toHaveLength(4096 - 40); // KVM's table, less the pins of the controllers
  await all[1000]?.close();
  const again = guest.vm.msi(event);
  again.route(MSI_ADDRESS, VECTOR);
  void again.mask(false);

  expect(addUntilRefused).toThrow(expect.objectContaining({ code: 'ENOSPC' }));
});

test('an Msi does nothing once the Vm has stopped', async () => {
  const guest = new MicroGuest();
  const interrupt = new Interrupt(guest);
  await interrupt.msi.mask(false);
  await guest[Symbol.asyncDispose]();

  interrupt.msi.route(MSI_ADDRESS, 0);
  await interrupt.msi.mask(true);
  await interrupt.close();

  expect(() => guest.vm.msi(new native.EventFd())).toThrow('ESHUTDOWN');
});

test('a write of any width where a kick is attached signals it, and nobody else', async () => {
  await using guest = new MicroGuest();
  const recorder = new Recorder();
  const kick = new native.EventFd();
  const kicked: boolean[] = [];
  const NEXT_PORT = 0x500;
  guest.vm.claim({ space: 'mmio', base: MMIO_GPA, sizeBytes: 0x1000 }, recorder);
  guest.vm.attachKick(MMIO_GPA + 4, kick);
  const onNext = () => {
    kicked.push(kick.take());
    if (kicked.length === 3) guest.vm.detachKick(MMIO_GPA + 4, kick);
    return 0;
  };
  guest.vm.claim({ space: 'port', base: NEXT_PORT, sizeBytes: 1 }, { read: onNext, write() {} });

  const write = (sizeBytes: number) => [...store(MMIO_GPA + 4, sizeBytes), ...input(NEXT_PORT)];
  await guest.start([...[1, 2, 4, 2].flatMap(write), ...DONE, ...HLT]);
  await until(() => guest.doneCount === 1);

  expect(kicked).toEqual([true, true, true, false]);
  expect(recorder.seen).toMatchObject([{ kind: 'write', offset: 4, sizeBytes: 2 }]);
  expect(() => guest.vm.detachKick(MMIO_GPA + 4, kick)).toThrow('ENOENT');
  kick.close();
});

test('a guest that kicks is served and interrupted, and nobody else hears of it', async () => {
  await using guest = new MicroGuest();
  const recorder = new Recorder();
  const driver = new RingDriver(guest.memory);
  const queue = driver.device();
  const msi = guest.vm.msi(driver.irq);
  msi.route(MSI_ADDRESS, VECTOR);
  await msi.mask(false);
  guest.vm.claim({ space: 'mmio', base: MMIO_GPA, sizeBytes: 0x1000 }, recorder);
  guest.vm.attachKick(MMIO_GPA, driver.kick);
  driver.describe(0, [{ gpa: ROOM_GPA, sizeBytes: 4, write: true }]);
  queue.onKick(() => {
    for (let chain = queue.take(); chain; chain = queue.take())
      chain.complete(chain.write(Uint8Array.of(1, 2, 3, 4)));
  });
  await sleep(5); // the handler has looked, and found nothing

  const offerHead0 = [...movEax(1), ...store(driver.availGpa + 2, 2)];
  await startSleeper(guest, [...offerHead0, ...store(MMIO_GPA, 2)]);
  await until(() => guest.peek(RESULT_GPA) === 1);

  expect(guest.peek(ROOM_GPA)).toBe(0x0403_0201);
  expect(driver.used()).toEqual([{ head: 0, writtenBytes: 4 }]);
  expect(recorder.seen).toEqual([]);
  queue.close();
  await msi.close();
  driver.close();
});
