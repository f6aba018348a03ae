/** The event monitor of a real process: which events come, in which order, by every kind of way. */
import { execFileSync } from 'node:child_process';
import { closeSync, constants, openSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { guestConfig, type Habit, QUIET } from './support/guests.ts';
import { VmmProcess } from './support/vmm-process.ts';

const SOON = { timeout: 10_000, interval: 10 };

/** As `vm booted`; each event of the stream has its own JSON and an empty line behind it. */
const names = (text: string): string[] =>
  text
    .split('\n\n')
    .slice(0, -1)
    .map((one) => JSON.parse(one))
    .map(({ source, event }) => `${source} ${event}`);

const toFile = (folder: string) => ['--event-monitor', `path=${join(folder, 'events')}`];
const told = ({ folder }: VmmProcess) => names(readFileSync(join(folder, 'events'), 'utf8'));

async function did(vmm: VmmProcess, verb: string, body?: unknown): Promise<void> {
  const { status, text } = await vmm.put(verb, body);
  expect(status, text).toBeLessThan(300);
}

test('every verb tells of itself, and nothing is told of what is refused', async () => {
  await using vmm = await VmmProcess.start({ args: toFile });
  const config = guestConfig(vmm.folder);
  expect((await vmm.put('vm.boot')).status).toBe(404);
  await did(vmm, 'vm.delete');
  await did(vmm, 'vm.create', config);
  await did(vmm, 'vm.resize', { desired_vcpus: 1 });
  await did(vmm, 'vm.delete');
  await did(vmm, 'vm.create', config);
  for (const verb of ['boot', 'pause']) await did(vmm, `vm.${verb}`);
  expect((await vmm.put('vm.pause')).status).toBe(405);
  for (const verb of ['resume', 'reboot', 'shutdown', 'boot', 'delete'])
    await did(vmm, `vm.${verb}`);
  await did(vmm, 'vmm.shutdown');
  expect(await vmm.exitCode()).toBe(0);

  const vm = ['vmm starting', 'vm deleted', 'vm booting', 'vm booted', 'vm pausing', 'vm paused'];
  vm.push('vm resuming', 'vm resumed', 'vm rebooting', 'vm rebooted', 'vm shutdown');
  vm.push('vm booting', 'vm booted', 'vm shutdown', 'vm deleted', 'vmm shutdown');
  const text = readFileSync(join(vmm.folder, 'events'), 'utf8');
  expect(names(text)).toEqual(vm);
});

/** Has the guest do what it does, until the process ends or the events have come. */
async function run(habit: Habit, ...args: readonly string[]): Promise<VmmProcess> {
  const vmm = await VmmProcess.start({ args: (folder) => [...toFile(folder), ...args] });
  await did(vmm, 'vm.create', guestConfig(vmm.folder, habit));
  await did(vmm, 'vm.boot').catch(() => {}); // the process may end sooner than it answers
  return vmm;
}

const BOOTED = ['vmm starting', 'vm booting', 'vm booted'];
const ENDED = ['vm shutdown', 'vm deleted', 'vmm shutdown'];

test('a guest that powers off ends VM, config and process', async () => {
  await using vmm = await run('a guest that powers off');
  expect(await vmm.exitCode()).toBe(0);
  expect(told(vmm)).toEqual([...BOOTED, ...ENDED]);
});

test('with --no-shutdown it ends the VM alone', async () => {
  await using vmm = await run('a guest that powers off', '--no-shutdown');
  await expect.poll(() => told(vmm), SOON).toEqual([...BOOTED, 'vm shutdown']);
  await did(vmm, 'vmm.shutdown');
  expect(await vmm.exitCode()).toBe(0);
  expect(told(vmm)).toEqual([...BOOTED, 'vm shutdown', 'vm deleted', 'vmm shutdown']);
});

test('a guest that resets itself reboots', async () => {
  await using vmm = await run('a guest that resets itself at once, every time');
  const twice = [...BOOTED, 'vm rebooting', 'vm rebooted', 'vm rebooting'];
  await expect.poll(() => told(vmm).slice(0, 6), SOON).toEqual(twice);
});

test.each(['SIGTERM', 'SIGINT'] as const)('%s ends as vmm.shutdown does', async (signal) => {
  await using vmm = await run(QUIET);
  vmm.child.kill(signal);
  expect(await vmm.exitCode()).toBe(0);
  expect(told(vmm)).toEqual([...BOOTED, ...ENDED]);
});

test('a boot that fails has begun', async () => {
  await using vmm = await VmmProcess.start({ args: toFile });
  const config = guestConfig(vmm.folder);
  await did(vmm, 'vm.create', { ...config, payload: undefined });
  expect((await vmm.put('vm.boot')).status).toBe(400);
  expect(told(vmm)).toEqual(['vmm starting', 'vm booting']);
});

test('without a VM there is a start and an end', async () => {
  await using vmm = await VmmProcess.start({ args: toFile });
  await did(vmm, 'vmm.shutdown');
  expect(await vmm.exitCode()).toBe(0);
  expect(told(vmm)).toEqual(['vmm starting', 'vmm shutdown']);
});

test('a FIFO stalls neither the start nor, once it is full, anything else', async () => {
  const vmm = await VmmProcess.start({
    args: (folder) => {
      execFileSync('mkfifo', [join(folder, 'events')]);
      return toFile(folder);
    },
  });
  await using _ = vmm;
  await did(vmm, 'vm.create', guestConfig(vmm.folder));
  await did(vmm, 'vm.boot');
  for (let i = 0; i < 1000; i++) for (const verb of ['vm.pause', 'vm.resume']) await did(vmm, verb);
  await did(vmm, 'vmm.shutdown');
  expect(await vmm.exitCode()).toBe(0);
});

test('fd=N is whatever was inherited; what is not open, or not for writing, is refused', async () => {
  await using vmm = VmmProcess.launch({
    args: () => ['--event-monitor', 'fd=4'],
    stdio: ['ignore', 'ignore', 'ignore', 'ignore', 'pipe'],
  });
  let text = '';
  vmm.child.stdio[4]?.on('data', (bytes: Buffer) => {
    text += String(bytes);
  });
  await expect.poll(() => names(text), SOON).toEqual(['vmm starting']);
  vmm.child.kill('SIGTERM');
  await expect.poll(() => names(text), SOON).toEqual(['vmm starting', 'vmm shutdown']);

  const readable = openSync('/dev/null', constants.O_RDONLY);
  for (const stdio of ['ignore', readable] as const) {
    await using refused = VmmProcess.launch({
      args: () => ['--event-monitor', stdio === 'ignore' ? 'fd=9' : 'fd=3'],
      stdio: ['ignore', 'ignore', 'pipe', stdio],
    });
    let said = '';
    refused.child.stderr?.on('data', (bytes: Buffer) => {
      said += String(bytes);
    });
    expect(await refused.exitCode()).toBe(1);
    await expect.poll(() => said, SOON).toContain('  1: Bad file descriptor (os error 9)\n');
    expect(said).toContain('  0: Error doing event monitor I/O\n');
  }
  closeSync(readable);
});
