/** vCPUs that come and go: how often each has started is what the guest counts. */
import { readdirSync, readFileSync } from 'node:fs';
import { expect, test } from 'vitest';
import type { NewVcpu } from '../../src/native.ts';
import * as code from '../support/machine-code.ts';
import {
  AP_CODE_GPA,
  type GuestOptions,
  MicroGuest,
  RESULT_GPA,
  Recorder,
  START_APS,
  until,
} from '../support/micro-guest.ts';

const PORT = 0x500;

const STARTED_GPA = RESULT_GPA;
/** What APIC_BASE was when the last one started. */
const APIC_BASE_GPA = RESULT_GPA + 4;
/** Written by the test: the boot vCPU is to start the others. */
const GO_GPA = RESULT_GPA + 8;

const APIC_ENABLED = 0xfee0_0800;

const le16 = (value: number) => [value & 0xff, value >> 8];
const le32 = (value: number) => [...le16(value & 0xffff), ...le16(value >>> 16)];

/** Waits for `GO_GPA` to be set, starts all that wait for it, and waits again. */
const STARTER = (() => {
  const wait = [0x83, 0x3d, ...le32(GO_GPA), 0, 0x74, 0xf7]; // cmp dword [go], 0; je back
  const clear = [0xc7, 0x05, ...le32(GO_GPA), ...le32(0)]; // mov dword [go], 0
  return code.forever([...wait, ...clear, ...START_APS]);
})();

/** 16-bit code: notes the mode of its APIC, switches it to x2APIC, which INIT leaves, counts. */
const COUNTED = [
  ...[0x66, 0xb9, ...le32(0x1b), 0x0f, 0x32], // mov ecx, APIC_BASE; rdmsr
  ...[0x66, 0xa3, ...le16(APIC_BASE_GPA)], // mov [apic_base], eax
  ...[0x66, 0x0d, ...le32(1 << 10), 0x0f, 0x30], // or eax, x2APIC; wrmsr
  ...[0xf0, 0xff, 0x06, ...le16(STARTED_GPA)], // lock inc word [started]
];
const HALT = [0xf4];
const AGAIN = [0xeb, 0xfe];

/** A guest whose boot vCPU waits to start others, which run `apCode`. */
async function start(apCode: number[], options: GuestOptions): Promise<MicroGuest> {
  const guest = new MicroGuest(options);
  guest.memory.write(AP_CODE_GPA, Uint8Array.from(apCode));
  await guest.start(STARTER);
  return guest;
}

const startCount = (guest: MicroGuest) => guest.peek(STARTED_GPA) & 0xffff;

/** Has the boot vCPU send INIT and SIPI to all others. */
async function startOthers(guest: MicroGuest): Promise<void> {
  guest.memory.write(GO_GPA, Uint8Array.from([1]));
  await until(() => guest.peek(GO_GPA) === 0);
}

/** The same, and waits for as many to have started since the guest began. */
async function startUntil(guest: MicroGuest, count: number): Promise<void> {
  await startOthers(guest);
  await until(() => startCount(guest) === count);
}

const settle = () => new Promise((resolve) => setTimeout(resolve, 20));

const vcpuThreads = () =>
  readdirSync('/proc/self/task')
    .map((tid) => readFileSync(`/proc/self/task/${tid}/comm`, 'latin1').trim())
    .filter((name) => name.startsWith('vcpu'))
    .sort();
const vcpuFds = () => {
  const maps = readFileSync('/proc/self/maps', 'latin1');
  return maps.split('\n').filter((line) => /anon_inode:kvm-vcpu/.test(line)).length;
};

test('a vCPU that is plugged waits for its start-up interrupt, then runs', async () => {
  await using guest = await start([...COUNTED, ...HALT], { vcpusMax: 4 });
  await startOthers(guest); // of whom there is none

  await guest.plug(1, 4);
  await settle();
  expect(startCount(guest)).toBe(0);

  await startUntil(guest, 3);
});

test('one that was unplugged is reset, and runs again when it is plugged, as often as wanted', async () => {
  await using guest = await start([...COUNTED, ...HALT], { vcpus: 2 });
  await startUntil(guest, 1);

  for (let round = 1; round <= 20; round++) {
    guest.vm.unplug(1);
    await guest.plug(1, 2);
    await startUntil(guest, round + 1);
    expect(guest.peek(APIC_BASE_GPA) >>> 0).toBe(APIC_ENABLED);
  }
  expect(guest.events).toEqual([]);
});

test('an unplugged vCPU runs nothing, whatever the guest sends it', async () => {
  await using guest = await start([...COUNTED, ...HALT], { vcpus: 2 });
  await startUntil(guest, 1);

  guest.vm.unplug(1);
  await startOthers(guest);
  await settle();
  expect(startCount(guest)).toBe(1);
});

test('one that is unplugged in its own exit finishes it, and stops there', async () => {
  const out = [0xba, ...le16(PORT), 0xee]; // mov dx, PORT; out dx, al
  await using guest = await start([...out, ...COUNTED, ...HALT], { vcpus: 2 });
  let asked = 0;
  const write = () => {
    asked++;
    guest.vm.unplug(1);
  };
  guest.vm.claim({ space: 'port', base: PORT, sizeBytes: 1 }, { read: () => 0, write });

  await startOthers(guest);
  await until(() => asked === 1);
  await settle();
  expect(startCount(guest)).toBe(0);

  await guest.plug(1, 2);
  await startOthers(guest);
  await until(() => asked === 2);
});

test('one that could not go on can, once it is plugged again', async () => {
  const fault = [0x0f, 0x01, 0x1e, ...le16(0x7000), 0x0f, 0x0b]; // lidt [0x7000], which is 0; ud2
  await using guest = await start([...COUNTED, ...fault], { vcpus: 2 });
  await startUntil(guest, 1);
  await until(() => guest.events.length === 1);

  guest.vm.unplug(1);
  await guest.plug(1, 2);
  await startUntil(guest, 2);
  await until(() => guest.events.length === 2);

  // A triple fault, or where KVM emulates all code, an instruction that it lacks.
  const event = expect.objectContaining({ vcpu: 1 });
  expect(guest.events).toEqual([event, event]);
});

test('one that is plugged while the guest is paused runs after the resume', async () => {
  await using guest = await start([...COUNTED, ...HALT], { vcpus: 2, vcpusMax: 3 });
  guest.vm.unplug(1);
  await guest.vm.pause();
  guest.memory.write(GO_GPA, Uint8Array.from([1]));

  await guest.plug(1, 3);
  await settle();
  expect(startCount(guest)).toBe(0);

  guest.vm.resume();
  await until(() => startCount(guest) === 2);
});

test.each([
  ['halted', HALT],
  ['in a tight loop', AGAIN],
  ['in a storm of exits', [0xba, ...le16(PORT), 0xee, 0xeb, 0xfd]],
])('a guest pauses, resumes and stops with %s vCPUs plugged and unplugged', async (_, habit) => {
  const guest = await start([...COUNTED, ...habit], { vcpus: 2, vcpusMax: 4 });
  guest.vm.claim({ space: 'port', base: PORT, sizeBytes: 1 }, new Recorder());
  await guest.plug(2, 4);
  await startUntil(guest, 3);
  guest.vm.unplug(2);

  for (let round = 0; round < 20; round++) {
    await guest.vm.pause();
    guest.vm.resume();
    guest.vm.unplug(3);
    if (round % 2 === 0) await guest.vm.pause();
    await guest.plug(3, 4);
    guest.vm.resume();
  }
  await guest.vm.pause();
  await guest.vm.stop();

  expect(guest.events).toEqual([]);
  expect(vcpuThreads()).toEqual([]);
  await guest.memory.close();
});

test('a vCPU that may come costs neither thread nor descriptor, and later none more than once', async () => {
  await using guest = await start([...COUNTED, ...HALT], { vcpusMax: 254 });
  await expect.poll(vcpuThreads).toEqual(['vcpu0']);
  expect(vcpuFds()).toBe(1);

  for (let round = 0; round < 20; round++) {
    await guest.plug(1, 3);
    for (const vcpu of [2, 1]) guest.vm.unplug(vcpu);
  }

  await expect.poll(vcpuThreads).toEqual(['vcpu0', 'vcpu1', 'vcpu2']);
  expect(vcpuFds()).toBe(3);
});

test('what cannot be is refused: beyond the maximum, not made, plugged already, before a boot', async () => {
  const einval = expect.objectContaining({ code: 'EINVAL' });
  const vcpu: NewVcpu = { apicId: 3, hostCpus: [], cpuid: [] };
  await using early = new MicroGuest({ vcpusMax: 4 });
  expect(() => early.vm.makeVcpus(1, [vcpu])).toThrow(einval);
  await using guest = await start(HALT, { vcpusMax: 4 });

  expect(() => guest.vm.makeVcpus(3, [vcpu, vcpu])).toThrow(einval);
  expect(() => guest.vm.makeVcpus(4, [vcpu])).toThrow(einval);
  for (const index of [0, 1, 4, 0xffff_ffff]) expect(() => guest.vm.plug(index)).toThrow(einval);
  expect(() => guest.vm.unplug(4)).toThrow(einval);
  guest.vm.unplug(0);
  guest.vm.unplug(0);
});
