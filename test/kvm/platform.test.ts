import { closeSync, openSync, readFileSync } from 'node:fs';
import { expect, test } from 'vitest';
import * as code from '../support/machine-code.ts';
import {
  DONE,
  identityPageTables,
  LONG_MODE,
  MicroGuest,
  REAL_MODE,
  RESULT_GPA,
  until,
} from '../support/micro-guest.ts';

const PORT = 0x500;
const TIMER_PORT = 0x608;
const PCI_PORT = 0xcf8;

test('the PM timer advances at 3.58 MHz', async () => {
  await using guest = new MicroGuest();
  const seen: { ticks: number; atMs: number }[] = [];
  const write = (_offset: number, _size: number, ticks: number) =>
    void seen.push({ ticks, atMs: performance.now() });
  guest.vm.pmTimer(TIMER_PORT);
  guest.vm.claim({ space: 'port', base: PORT, sizeBytes: 4 }, { read: () => 0, write });

  await guest.start(code.forever([...code.input(TIMER_PORT, 4), ...code.out(PORT, 4)]));
  await until(() => (seen.at(-1)?.atMs ?? 0) - (seen[0]?.atMs ?? 0) > 200);

  const [first, last] = [seen[0], seen.at(-1)];
  const ticks = ((last?.ticks ?? 0) - (first?.ticks ?? 0)) >>> 0;
  const seconds = ((last?.atMs ?? 0) - (first?.atMs ?? 0)) / 1000;
  expect(ticks / seconds / 3_579_545).toBeCloseTo(1, 1); // within 5 %
});

test('a sink swallows writes and reads all ones', async () => {
  await using guest = new MicroGuest();
  guest.vm.sink(0x80, 2);

  await guest.start([
    ...code.movEax(0),
    ...code.out(0x80),
    ...code.input(0x80, 2),
    ...code.store(RESULT_GPA, 4),
    ...DONE,
    ...code.HLT,
  ]);
  await until(() => guest.doneCount === 1);

  expect(guest.peek(RESULT_GPA)).toBe(0xffff);
});

test('the address register of PCI reads back, and only four bytes at once change it', async () => {
  await using guest = new MicroGuest();
  const address = guest.vm.pciAddress(PCI_PORT);
  const writes: [number, number, number][] = [
    [0xffff_ffff, PCI_PORT, 4],
    [0x01, PCI_PORT + 3, 1], // what Linux does before it looks
    [0x00, PCI_PORT, 2],
  ];

  await guest.start([
    ...writes.flatMap(([value, port, sizeBytes]) => [
      ...code.movEax(value),
      ...code.out(port, sizeBytes),
    ]),
    ...[...code.input(PCI_PORT, 4), ...code.store(RESULT_GPA, 4)],
    ...[...code.input(PCI_PORT + 2, 2), ...code.store(RESULT_GPA + 4, 2)],
    ...DONE,
    ...code.HLT,
  ]);
  await until(() => guest.doneCount === 1);

  expect([address(), guest.peek(RESULT_GPA)]).toEqual([0x80ff_fffc, 0x80ff_fffc]);
  expect(guest.peek(RESULT_GPA + 4) & 0xffff).toBe(0xffff);
});

test('code starts in 16-bit mode', async () => {
  await using guest = new MicroGuest();
  // mov ax, 0x1234; mov [RESULT_GPA], ax; hlt: in 32-bit mode it would be another instruction
  await guest.boot([0xb8, 0x34, 0x12, 0xa3, 0x00, 0x80, 0xf4], REAL_MODE);

  guest.vm.run();

  await until(() => guest.peek(RESULT_GPA) === 0x1234);
});

test('code starts in 32-bit mode', async () => {
  await using guest = new MicroGuest();

  await guest.start([...code.movEax(0x1234_5678), ...code.store(RESULT_GPA, 4), ...code.HLT]);

  await until(() => guest.peek(RESULT_GPA) === 0x1234_5678);
});

test('code starts in 64-bit mode with the registers that it was given', async () => {
  await using guest = new MicroGuest();
  // mov [RESULT_GPA], rbx; mov [RESULT_GPA + 8], rsi; hlt
  const body = [0x48, 0x89, 0x1c, 0x25, 0, 0x80, 0, 0, 0x48, 0x89, 0x34, 0x25, 8, 0x80, 0, 0, 0xf4];
  const entry = { ...LONG_MODE, rbx: 0x11_2233_4455, rsi: 0x66_7788_99aa };
  await guest.boot(body, entry, identityPageTables());

  guest.vm.run();

  await until(() => guest.peek(RESULT_GPA + 12) === 0x66);
  const words = [0, 4, 8].map((offset) => guest.peek(RESULT_GPA + offset));
  expect(words).toEqual([0x2233_4455, 0x11, 0x7788_99aa]);
});

test('a part of a file is laid into RAM', async () => {
  await using guest = new MicroGuest();
  const fd = openSync(import.meta.filename, 'r');
  await guest.boot([], REAL_MODE, [{ gpa: RESULT_GPA, fd, offset: 7, length: 4 }]);
  closeSync(fd);

  expect(guest.peek(RESULT_GPA)).toBe(readFileSync(import.meta.filename).readUInt32LE(7));
});

test('a file that ends early is an error that names the blob', async () => {
  await using guest = new MicroGuest();
  const fd = openSync('/dev/null', 'r');

  const booted = guest.boot([], REAL_MODE, [{ gpa: RESULT_GPA, fd, offset: 0, length: 4 }]);

  await expect(booted).rejects.toMatchObject({
    code: 'ENODATA',
    message: expect.stringContaining('index=1'),
  });
  closeSync(fd);
});

test("the guest's TSC runs as fast as KVM says", async () => {
  await using guest = new MicroGuest();
  const seen: { tsc: number; atMs: number }[] = [];
  const write = (_offset: number, _size: number, tsc: number) =>
    void seen.push({ tsc, atMs: performance.now() });
  guest.vm.claim({ space: 'port', base: PORT, sizeBytes: 4 }, { read: () => 0, write });

  await guest.start(code.forever([...code.RDTSC, ...code.out(PORT, 4)]));
  await until(() => (seen.at(-1)?.atMs ?? 0) - (seen[0]?.atMs ?? 0) > 200);

  const [first, last] = [seen[0], seen.at(-1)];
  const cycles = ((last?.tsc ?? 0) - (first?.tsc ?? 0)) >>> 0;
  const khz = cycles / ((last?.atMs ?? 0) - (first?.atMs ?? 0));
  expect((guest.vm.tscKhz() ?? 0) / khz).toBeCloseTo(1, 1); // within 5 %
});
