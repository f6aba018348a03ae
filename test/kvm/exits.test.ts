import { expect, test } from 'vitest';
import * as code from '../support/machine-code.ts';
import {
  DONE,
  identityPageTables,
  LONG_MODE,
  MicroGuest,
  MMIO_GPA,
  RESULT_GPA,
  Recorder,
  until,
} from '../support/micro-guest.ts';

const PORT = 0x500;
const VALUE = 0x8765_4321;

/** Runs 32-bit code to its `DONE` with `recorder` at 16 ports and at 8 KiB of MMIO. */
async function run(instructions: number[], recorder: Recorder): Promise<MicroGuest> {
  const guest = new MicroGuest();
  guest.vm.claim({ space: 'port', base: PORT, sizeBytes: 16 }, recorder);
  guest.vm.claim({ space: 'mmio', base: MMIO_GPA, sizeBytes: 0x2000 }, recorder);
  await guest.start([...instructions, ...DONE, ...code.HLT]);
  await until(() => guest.doneCount === 1);
  return guest;
}

const SIZES = [
  { sizeBytes: 1, value: 0x21 },
  { sizeBytes: 2, value: 0x4321 },
  { sizeBytes: 4, value: VALUE },
];
const OFFSETS = [0, 3, 12];

test.each(SIZES)('a write of $sizeBytes bytes arrives with offset, size and value', async (row) => {
  const recorder = new Recorder();

  await using _ = await run(
    [
      ...code.movEax(VALUE),
      ...OFFSETS.flatMap((offset) => code.out(PORT + offset, row.sizeBytes)),
      ...OFFSETS.flatMap((offset) => code.store(MMIO_GPA + offset, row.sizeBytes)),
    ],
    recorder,
  );

  const once = OFFSETS.map((offset) => ({ kind: 'write', offset, ...row }));
  expect(recorder.seen).toEqual([...once, ...once]);
});

test.each(SIZES)('a read of $sizeBytes bytes is answered to the guest', async (row) => {
  const recorder = new Recorder((offset) => VALUE + offset);
  const keep = (read: number[]) => [...code.movEax(0), ...read, ...code.STOS_NEXT];

  await using guest = await run(
    [
      ...code.movEdi(RESULT_GPA),
      ...OFFSETS.flatMap((offset) => keep(code.input(PORT + offset, row.sizeBytes))),
      ...OFFSETS.flatMap((offset) => keep(code.load(MMIO_GPA + offset, row.sizeBytes))),
    ],
    recorder,
  );

  const mask = 2 ** (8 * row.sizeBytes) - 1;
  const answers = OFFSETS.map((offset) => ((VALUE + offset) & mask) >>> 0);
  const results = Array.from({ length: 6 }, (_, i) => guest.peek(RESULT_GPA + 4 * i));
  expect(results).toEqual([...answers, ...answers]);
});

test('an access of 8 bytes arrives as two of 4, low half first', async () => {
  await using guest = new MicroGuest();
  const recorder = new Recorder((offset) => 0x1111_1111 * (1 + offset));
  guest.vm.claim({ space: 'mmio', base: MMIO_GPA, sizeBytes: 16 }, recorder);
  // mov rax, [rbx]; mov [RESULT_GPA], rax; mov [rbx], rax
  const body = [0x48, 0x8b, 0x03, 0x48, 0x89, 0x04, 0x25, 0, 0x80, 0, 0, 0x48, 0x89, 0x03];
  const entry = { ...LONG_MODE, rbx: MMIO_GPA + 8 };
  await guest.boot([...body, ...DONE, ...code.HLT], entry, identityPageTables());

  guest.vm.run();
  await until(() => guest.doneCount === 1);

  const low = { offset: 8, sizeBytes: 4 };
  const high = { offset: 12, sizeBytes: 4 };
  expect(recorder.seen).toEqual([
    { kind: 'read', ...low },
    { kind: 'read', ...high },
    { kind: 'write', ...low, value: 0x9999_9999 },
    { kind: 'write', ...high, value: 0xdddd_dddd },
  ]);
  expect([guest.peek(RESULT_GPA), guest.peek(RESULT_GPA + 4)]).toEqual([0x9999_9999, 0xdddd_dddd]);
});

test('a string of bytes arrives byte by byte in its order', async () => {
  const text = 'a string instruction makes many accesses in one exit';
  const bytes = [...Buffer.from(text)];
  const recorder = new Recorder();
  const stosb = bytes.flatMap((byte) => [0xb0, byte, 0xaa]);

  await using _ = await run(
    [...code.movEdi(RESULT_GPA), ...stosb, ...code.repOutsb(PORT + 1, RESULT_GPA, bytes.length)],
    recorder,
  );

  const expected = bytes.map((value) => ({ kind: 'write', offset: 1, sizeBytes: 1, value }));
  expect(recorder.seen).toEqual(expected);
});

test('what nobody claims reads all ones, and the part of an access that is claimed does not', async () => {
  const recorder = new Recorder(() => 0x5a);
  const keep = (read: number[]) => [...code.movEax(0), ...read, ...code.STOS_NEXT];

  await using guest = await run(
    [
      ...code.movEdi(RESULT_GPA),
      ...keep(code.input(PORT + 16, 1)),
      ...keep(code.input(PORT + 16, 4)),
      ...keep(code.load(MMIO_GPA + 0x2000, 2)),
      ...keep(code.input(PORT + 14, 4)),
    ],
    recorder,
  );

  const results = Array.from({ length: 4 }, (_, i) => guest.peek(RESULT_GPA + 4 * i));
  expect(results).toEqual([0xff, 0xffff_ffff, 0xffff, 0xffff_5a5a]);
});

test('ranges come and go while the guest uses them', async () => {
  await using guest = new MicroGuest();
  const claim = { space: 'port', base: PORT, sizeBytes: 1 } as const;
  await guest.start(
    code.forever([...code.movEax(0), ...code.input(PORT), ...code.store(RESULT_GPA), ...DONE]),
  );
  const settle = async () => {
    const start = guest.doneCount;
    await until(() => guest.doneCount >= start + 2);
    return guest.peek(RESULT_GPA) & 0xff;
  };

  const seen: number[] = [];
  for (let round = 1; round <= 50; round++) {
    guest.vm.claim(claim, { read: () => round, write: () => {} });
    seen.push(await settle());
    guest.vm.release(claim);
    seen.push(await settle());
  }

  expect(seen).toEqual(Array.from({ length: 100 }, (_, i) => (i % 2 === 0 ? i / 2 + 1 : 0xff)));
});

test('a handler may release its own range', async () => {
  await using guest = new MicroGuest();
  const claim = { space: 'port', base: PORT, sizeBytes: 1 } as const;
  let calls = 0;
  const write = () => {
    calls++;
    guest.vm.release(claim);
  };
  guest.vm.claim(claim, { read: () => 0, write });

  await guest.start([...code.out(PORT), ...code.out(PORT), ...DONE, ...code.HLT]);
  await until(() => guest.doneCount === 1);

  expect(calls).toBe(1);
});

test('an overlapping or empty claim is refused', () => {
  const guest = new MicroGuest();
  const handler = new Recorder();
  const claim = (base: number, sizeBytes: number) =>
    guest.vm.claim({ space: 'port', base, sizeBytes }, handler);
  claim(0x500, 4);

  expect(() => claim(0x503, 1)).toThrow(expect.objectContaining({ code: 'EEXIST' }));
  expect(() => claim(0x600, 0)).toThrow(expect.objectContaining({ code: 'EINVAL' }));
});

test('a handler that throws costs one event, and the guest reads all ones and goes on', async () => {
  const recorder = new Recorder(() => {
    throw new Error('no such register');
  });

  await using guest = await run(
    [...code.movEax(0), ...code.input(PORT, 4), ...code.store(RESULT_GPA, 4)],
    recorder,
  );

  expect(guest.peek(RESULT_GPA)).toBe(0xffff_ffff);
  expect(guest.events).toEqual([
    expect.objectContaining({ type: 'handler-error', message: 'no such register' }),
  ]);
});

const PROMISED = { space: 'port', base: PORT, sizeBytes: 4 } as const;
const ASKS = [...code.movEax(0), ...code.input(PORT, 4), ...code.store(RESULT_GPA, 4)];

test('an answer may come later: the guest waits for it, and nobody else does', async () => {
  await using guest = new MicroGuest();
  const writes: number[] = [];
  let answer: ((value: number) => void) | undefined;
  guest.vm.claim(PROMISED, {
    read: () => new Promise((resolve) => (answer = resolve)),
    write: async (_, __, value) => void writes.push(value),
  });
  await guest.start([...ASKS, ...code.out(PORT, 4), ...DONE, ...code.HLT]);
  await until(() => answer !== undefined);
  const paused = guest.vm.pause();
  const isPaused = paused.then(() => true);
  for (let turn = 0; turn < 20; turn++) await new Promise((resolve) => setTimeout(resolve, 1));
  expect(await Promise.race([isPaused, false])).toBe(false);

  answer?.(VALUE);
  await paused;
  guest.vm.resume();
  await until(() => guest.doneCount === 1);

  expect([guest.peek(RESULT_GPA), writes]).toEqual([VALUE, [VALUE]]);
});

test('a promise that is broken costs one event, and the guest reads all ones', async () => {
  await using guest = new MicroGuest();
  guest.vm.claim(PROMISED, {
    read: async () => {
      throw new Error('no such register');
    },
    write: () => {},
  });
  await guest.start([...ASKS, ...DONE, ...code.HLT]);
  await until(() => guest.doneCount === 1);

  expect(guest.peek(RESULT_GPA)).toBe(0xffff_ffff);
  expect(guest.events).toEqual([
    expect.objectContaining({ type: 'handler-error', message: 'no such register' }),
  ]);
});

test('a guest that waits for an answer can be stopped, and the answer is nobody’s', async () => {
  const guest = new MicroGuest();
  let answer: ((value: number) => void) | undefined;
  const read = () => new Promise<number>((resolve) => (answer = resolve));
  guest.vm.claim(PROMISED, { read, write: () => {} });
  await guest.start([...ASKS, ...DONE, ...code.HLT]);
  await until(() => answer !== undefined);

  const stopped = guest.vm.stop();
  answer?.(VALUE);
  await stopped;
  await guest[Symbol.asyncDispose]();
});

test('a storm of exits leaves the event loop alive', async () => {
  await using guest = new MicroGuest({ vcpus: 16 });
  let served = 0;
  const write = () => {
    served++;
    const end = performance.now() + 0.2; // the others ask in the meantime
    while (performance.now() < end);
  };
  guest.vm.claim({ space: 'port', base: PORT, sizeBytes: 1 }, { read: () => 0, write });
  await guest.startStorm(PORT);
  await until(() => served > 10);

  // Counted in exits, not in time, which depends on who else uses the machine.
  const servedMeanwhile: number[] = [];
  for (let round = 0; round < 20; round++) {
    const before = served;
    await new Promise((resolve) => setTimeout(resolve, 5));
    servedMeanwhile.push(served - before);
  }

  // 5 ms of waiting and 2 ms of a turn, which a round over the vCPUs may overrun, at 0.2 ms each.
  expect(Math.max(...servedMeanwhile)).toBeLessThan(100);
});
