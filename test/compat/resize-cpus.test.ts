/**
 * vm.resize of vCPUs over the API of a real process, as it was recorded of the original: the guest
 * gives up what it is asked for as soon as it runs.
 */
import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { bareGuest } from '../support/bare-guest.ts';
import { guestConfig } from './support/guests.ts';
import { done } from './support/verbs.ts';
import { VmmProcess } from './support/vmm-process.ts';

let vmm: VmmProcess;

beforeEach(async () => {
  vmm = await VmmProcess.start();
});

afterEach(() => vmm[Symbol.asyncDispose]());

const config = (boot_vcpus: number, max_vcpus = 4) => ({
  ...guestConfig(vmm.folder),
  payload: { kernel: bareGuest('cpu-hotplug') },
  cpus: { boot_vcpus, max_vcpus, max_phys_bits: 36 },
});

const resize = (desired_vcpus: number) => vmm.put('vm.resize', { desired_vcpus });
const serial = () => readFileSync(join(vmm.folder, 'serial'), 'utf8');
const shows = (text: string) => expect.poll(serial, { timeout: 8000, interval: 5 }).toBe(text);

async function vcpus(): Promise<number> {
  const { body } = await vmm.get('vm.info');
  return (body as { config: { cpus: { boot_vcpus: number } } }).config.cpus.boot_vcpus;
}

async function boot(bootVcpus: number): Promise<void> {
  expect(await vmm.put('vm.create', config(bootVcpus))).toMatchObject({ status: 204 });
  await done(vmm, 'vm.boot');
  await shows('up ');
}

const vcpuThreads = () => {
  const tasks = `/proc/${vmm.pid}/task`;
  return readdirSync(tasks)
    .map((tid) => readFileSync(`${tasks}/${tid}/comm`, 'latin1').trim())
    .filter((name) => name.startsWith('vcpu'))
    .sort();
};

const PENDING = { status: 429, body: ['Too Many Requests'] };

test('the steps of the recording have its answers', async () => {
  await boot(1);

  expect(await resize(4)).toMatchObject({ status: 204 });
  expect(await vcpus()).toBe(4);
  await shows('up +1 +2 +3 ');

  expect(await resize(5)).toMatchObject({
    status: 400,
    body: [
      ...['Error from API', 'The VM could not be resized', 'Error from CPU manager'],
      ...[
        'Requested vCPUs exceed maximum',
        expect.stringMatching(/^desired_vcpus is 5: give 1 to 4/),
      ],
    ],
  });

  await done(vmm, 'vm.pause'); // so that the guest does nothing yet
  expect(await resize(2)).toMatchObject({ status: 204 });
  for (const count of [3, 1, 2]) expect(await resize(count)).toMatchObject(PENDING);
  expect(await vcpus()).toBe(2);

  await done(vmm, 'vm.resume');
  await shows('up +1 +2 +3 -2 -3 ');
  expect(await resize(3)).toMatchObject({ status: 204 });
  expect(await vcpus()).toBe(3);
  await shows('up +1 +2 +3 -2 -3 +2 ');
});

test('vCPUs come and go as often as wanted, and a thread is made for each once', async () => {
  await boot(1);
  let said = 'up ';
  expect(vcpuThreads()).toEqual(['vcpu0']);

  for (let round = 0; round < 10; round++) {
    expect(await resize(3)).toMatchObject({ status: 204 });
    said += '+1 +2 ';
    await shows(said);
    expect(await resize(1)).toMatchObject({ status: 204 });
    said += '-1 -2 ';
    await shows(said);
  }
  expect(vcpuThreads()).toEqual(['vcpu0', 'vcpu1', 'vcpu2']);
  await done(vmm, 'vm.pause', 'vm.resume', 'vm.nmi');
});

test('the same number is taken, and the guest hears nothing; nothing asked for is nothing done', async () => {
  await boot(2);

  expect(await resize(2)).toMatchObject({ status: 204 });
  expect(await vmm.put('vm.resize', {})).toMatchObject({ status: 204 });
  expect(await resize(3)).toMatchObject({ status: 204 });

  await shows('up +2 ');
});

test('a removal that the guest never acknowledges: the VM is fine, and a reboot completes it', async () => {
  await boot(4);
  await done(vmm, 'vm.pause');
  expect(await resize(1)).toMatchObject({ status: 204 });
  expect(await resize(4)).toMatchObject(PENDING);
  expect(await vmm.get('vm.info')).toMatchObject({ status: 200, body: { state: 'Paused' } });

  await done(vmm, 'vm.reboot');
  await shows('up ');
  expect(vcpuThreads()).toEqual(['vcpu0']);
  expect(await vcpus()).toBe(1);
  expect(await resize(2)).toMatchObject({ status: 204 });
  await shows('up +1 ');
});

test('a reboot keeps what was added', async () => {
  await boot(1);
  expect(await resize(3)).toMatchObject({ status: 204 });

  await done(vmm, 'vm.reboot');
  await shows('up ');

  await expect.poll(vcpuThreads).toEqual(['vcpu0', 'vcpu1', 'vcpu2']);
});

test('before a boot, the config is edited', async () => {
  expect(await vmm.put('vm.create', config(1))).toMatchObject({ status: 204 });

  expect(await resize(3)).toMatchObject({ status: 204 });
  expect(await vcpus()).toBe(3);

  await done(vmm, 'vm.boot');
  await expect.poll(vcpuThreads).toEqual(['vcpu0', 'vcpu1', 'vcpu2']);
});

describe.each(['Created', 'Running', 'Paused'])('in %s', (state) => {
  test.each([
    [0, 'desired_vcpus is 0: give 1 to 4, which is cpus.max_vcpus'],
    [5, 'desired_vcpus is 5: give 1 to 4, which is cpus.max_vcpus'],
    [2 ** 32 - 1, 'desired_vcpus is 4294967295: give 1 to 4, which is cpus.max_vcpus'],
  ])('%i vCPUs are refused, and nothing changes', async (count, text) => {
    expect(await vmm.put('vm.create', config(2))).toMatchObject({ status: 204 });
    if (state !== 'Created') await done(vmm, 'vm.boot');
    if (state === 'Paused') await done(vmm, 'vm.pause');

    const { status, body } = await resize(count);

    expect([status, (body as string[]).at(-1)]).toEqual([400, text]);
    expect(await vcpus()).toBe(2);
  });
});
