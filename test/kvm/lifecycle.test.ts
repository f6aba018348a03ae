import { readdirSync, readFileSync, readlinkSync } from 'node:fs';
import { setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';
import { expect, test } from 'vitest';
import * as code from '../support/machine-code.ts';
import {
  AP_CODE_GPA,
  DONE,
  type GuestOptions,
  MicroGuest,
  MMIO_GPA,
  PROTECTED_MODE,
  RESULT_GPA,
  Recorder,
  START_APS,
  until,
} from '../support/micro-guest.ts';

const PORT = 0x500;
/** An exception, for which there is no interrupt table. */
const UD2 = [0x0f, 0x0b];
/** To where KVM fetches no code from. */
const JUMP_OUT_OF_RAM = [...code.movEax(MMIO_GPA), 0xff, 0xe0];
const COUNT_FOR_EVER = code.forever(code.increment(RESULT_GPA));

const threadNames = () =>
  readdirSync('/proc/self/task')
    .map((tid) => readFileSync(`/proc/self/task/${tid}/comm`, 'latin1').trim())
    .sort();
const vcpuThreads = () => threadNames().filter((name) => name.startsWith('vcpu'));

/** A started guest whose counter at `RESULT_GPA` moves. */
async function counting(options: GuestOptions = {}): Promise<MicroGuest> {
  const guest = new MicroGuest(options);
  await guest.start(COUNT_FOR_EVER);
  await moves(guest);
  return guest;
}

const moves = async (guest: MicroGuest) => {
  const before = guest.peek(RESULT_GPA);
  await until(() => guest.peek(RESULT_GPA) !== before);
};

const standsStill = async (guest: MicroGuest) => {
  const before = guest.peek(RESULT_GPA);
  await new Promise((resolve) => setTimeout(resolve, 20));
  return guest.peek(RESULT_GPA) === before;
};

test('a paused guest stands still until it is resumed', async () => {
  await using guest = await counting();

  await guest.vm.pause();
  expect(await standsStill(guest)).toBe(true);

  guest.vm.resume();
  await moves(guest);
});

test('a pause follows a resume at once, and a pause follows a pause', async () => {
  await using guest = await counting({ vcpus: 2 });

  for (let round = 0; round < 100; round++) {
    await guest.vm.pause();
    await guest.vm.pause();
    guest.vm.resume();
  }
  await guest.vm.pause();

  expect(await standsStill(guest)).toBe(true);
});

test('a pause in an exit finishes it, and the guest goes on behind it', async () => {
  await using guest = new MicroGuest();
  let paused: Promise<void> | undefined;
  const read = () => {
    paused ??= guest.vm.pause();
    return 0x1234_5678;
  };
  guest.vm.claim({ space: 'port', base: PORT, sizeBytes: 4 }, { read, write: () => {} });

  await guest.start([...code.insd(PORT, RESULT_GPA), ...DONE, ...code.HLT]);
  await until(() => paused !== undefined);
  await paused;
  expect(guest.peek(RESULT_GPA)).toBe(0x1234_5678);
  expect(guest.doneCount).toBe(0);

  guest.vm.resume();
  await until(() => guest.doneCount === 1);
});

test('a pause in the first exit of an access to two pages serves the second too', async () => {
  await using guest = new MicroGuest();
  let paused: Promise<void> | undefined;
  const recorder = new Recorder();
  const write = (offset: number, sizeBytes: number, value: number) => {
    recorder.write(offset, sizeBytes, value);
    paused ??= guest.vm.pause();
  };
  const claim = { space: 'mmio', base: MMIO_GPA, sizeBytes: 0x2000 } as const;
  guest.vm.claim(claim, { read: () => 0, write });

  const across = MMIO_GPA + 0x1000 - 2;
  await guest.start([...code.movEax(0x4433_2211), ...code.store(across, 4), ...DONE, ...code.HLT]);
  await until(() => paused !== undefined);
  await paused;
  guest.vm.resume();
  await until(() => guest.doneCount === 1);

  expect(recorder.seen).toEqual([
    { kind: 'write', offset: 0xffe, sizeBytes: 2, value: 0x2211 },
    { kind: 'write', offset: 0x1000, sizeBytes: 2, value: 0x4433 },
  ]);
});

test.each([
  ['in a tight loop', code.forever([])],
  ['in hlt', code.HLT],
  ['in a storm of exits', code.forever(code.out(PORT))],
  ['after a triple fault', UD2],
  ['that cannot go on', JUMP_OUT_OF_RAM],
])('a guest %s pauses, resumes and stops', async (_where, instructions) => {
  const guest = new MicroGuest();
  guest.vm.claim({ space: 'port', base: PORT, sizeBytes: 1 }, new Recorder());
  await guest.start([...DONE, ...instructions]);
  await until(() => guest.doneCount === 1);

  await guest.vm.pause();
  guest.vm.resume();
  await guest.vm.pause();
  await guest.vm.stop();

  expect(vcpuThreads()).toEqual([]);
  await guest.memory.close();
});

test('a handler may stop the machine, and is asked nothing more', async () => {
  const guest = new MicroGuest({ vcpus: 4 });
  let asked = 0;
  let stopped: Promise<void> | undefined;
  const write = () => {
    if (++asked < 500) return;
    const end = performance.now() + 20; // the other vCPUs ask meanwhile
    while (performance.now() < end);
    stopped = guest.vm.stop();
  };
  guest.vm.claim({ space: 'port', base: PORT, sizeBytes: 1 }, { read: () => 0, write });

  await guest.startStorm(PORT);
  await until(() => stopped !== undefined);
  await stopped;

  expect(asked).toBe(500);
  expect(vcpuThreads()).toEqual([]);
  await guest.memory.close();
});

test('a stopped machine can be stopped again, and refuses the rest', async () => {
  const guest = await counting();
  await Promise.all([guest.vm.stop(), guest.vm.stop()]);
  await guest.vm.stop();

  expect(() => guest.vm.resume()).toThrow(expect.objectContaining({ code: 'ESHUTDOWN' }));
  await guest.memory.close();
});

test('a machine is not run before it is booted, nor booted twice', async () => {
  await using guest = new MicroGuest();
  expect(() => guest.vm.run()).toThrow(expect.objectContaining({ code: 'EINVAL' }));

  await guest.boot(code.HLT, PROTECTED_MODE);
  await expect(guest.boot(code.HLT)).rejects.toMatchObject({ code: 'EALREADY' });
});

test('a triple fault is an event that names the vCPU', async () => {
  await using guest = new MicroGuest();

  await guest.start(UD2);
  await until(() => guest.events.length > 0);

  expect(guest.events).toEqual([expect.objectContaining({ type: 'triple-fault', vcpu: 0 })]);
});

test('a vCPU that cannot go on is an event that says why and where', async () => {
  await using guest = new MicroGuest();

  await guest.start(JUMP_OUT_OF_RAM);
  await until(() => guest.events.length > 0);

  const message = expect.stringMatching(/^KVM could not go on, .*, rip 0x20000000$/);
  expect(guest.events).toEqual([{ type: 'vcpu-error', vcpu: 0, message }]);
});

test('other vCPUs wait for their start-up interrupt, then run', async () => {
  await using guest = new MicroGuest({ vcpus: 4 });
  // lock inc word [RESULT_GPA]; hlt
  const countUp = [0xf0, 0xff, 0x06, RESULT_GPA & 0xff, RESULT_GPA >> 8, 0xf4];
  guest.memory.write(AP_CODE_GPA, Uint8Array.from(countUp));

  await guest.start([...START_APS, ...code.HLT]);

  await until(() => guest.peek(RESULT_GPA) === 3);
});

test('64 vCPUs have a thread each, named after them, until they stop', async () => {
  const guest = await counting({ vcpus: 64 });
  const named = Array.from({ length: 64 }, (_, i) => `vcpu${i}`).sort();

  await expect.poll(vcpuThreads).toEqual(named); // a thread names itself, after it was started
  await guest.vm.pause();
  await guest.vm.stop();

  expect(vcpuThreads()).toEqual([]);
  await guest.memory.close();
});

/** What one machine takes: descriptors, threads, and mappings of RAM and of vCPUs. */
function holdings(): object {
  const fds = readdirSync('/proc/self/fd').flatMap((fd) => {
    try {
      return [readlinkSync(`/proc/self/fd/${fd}`)];
    } catch {
      return []; // that of readdir itself
    }
  });
  const maps = readFileSync('/proc/self/maps', 'latin1').split('\n');
  return {
    fds: fds.length,
    threads: threadNames().length,
    mappings: maps.filter((line) => /guest-ram|kvm/.test(line)).length,
  };
}

test('fifty lives of a machine leave nothing behind', async () => {
  const live = async () => {
    await using guest = new MicroGuest({ vcpus: 2, shared: true });
    guest.vm.uart({ base: 0x3f8, gsi: 4, fd: 1, onRoom: () => {} });
    await guest.start([...DONE, ...code.HLT]);
    await until(() => guest.doneCount === 1);
  };
  await live(); // makes the workers, which stay
  const before = holdings();

  for (let life = 0; life < 50; life++) await live();

  expect(holdings()).toEqual(before);
});

test('a Vm that has ended, and what its listener knows, can be collected', async () => {
  setFlagsFromString('--expose-gc');
  const collect = runInNewContext('gc') as () => void;
  const runOnce = async () => {
    await using guest = await counting();
    return new WeakRef(guest);
  };

  const guest = await runOnce();

  await until(() => {
    collect();
    return guest.deref() === undefined;
  });
});
