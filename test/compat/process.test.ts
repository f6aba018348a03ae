/**
 * The process around the VM: signals, the API socket and its lock, the log, odd ways to start it.
 */
import { execFileSync, spawnSync } from 'node:child_process';
import {
  chmodSync,
  cpSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { freemem, tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { ticksOfASecond } from './support/cpu-time.ts';
import { printing, streaming, tightLoop } from './support/serial-guests.ts';
import { LAUNCHER, requestText, VmmProcess } from './support/vmm-process.ts';

const SOON = { timeout: 10_000, interval: 5 };

let folder: string;

beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'process-'));
});

afterEach(() => {
  rmSync(folder, { recursive: true });
});

function configOf(vmm: VmmProcess, kernel: Uint8Array) {
  const path = join(vmm.folder, 'vmlinux');
  writeFileSync(path, kernel);
  return {
    payload: { kernel: path },
    memory: { size: 64 << 20 },
    serial: { mode: 'File', file: join(vmm.folder, 'com1') },
    console: { mode: 'Off' },
  };
}

async function enter(vmm: VmmProcess, kernel: Uint8Array, ...verbs: string[]): Promise<void> {
  const bodies: Record<string, unknown> = { 'vm.create': configOf(vmm, kernel) };
  for (const verb of verbs) {
    const { status, text } = await vmm.put(verb, bodies[verb]);
    expect(status, text).toBe(204);
  }
}

const STATES: Record<string, (vmm: VmmProcess) => Promise<void>> = {
  'without a VM': async () => {},
  Created: (vmm) => enter(vmm, tightLoop, 'vm.create'),
  'during a boot': async (vmm) => {
    // So much that it takes seconds.
    const size = Math.min(4 * 2 ** 30, Math.floor(freemem() / 2 ** 22) * 2 ** 21);
    const config = { ...configOf(vmm, tightLoop), memory: { size, prefault: true } };
    expect((await vmm.put('vm.create', config)).status).toBe(204);
    void vmm.raw(requestText('PUT', '/api/v1/vm.boot')).catch(() => {});
    await vmm.get('vmm.ping'); // so that the boot was read
  },
  'in a tight loop': (vmm) => enter(vmm, tightLoop, 'vm.create', 'vm.boot'),
  Paused: (vmm) => enter(vmm, tightLoop, 'vm.create', 'vm.boot', 'vm.pause'),
};

describe.each(Object.keys(STATES))('%s', (state) => {
  test.each(['SIGTERM', 'SIGINT', 'SIGHUP'] as const)(
    '%s ends it with 0 within a second; the socket goes, the lock stays',
    async (signal) => {
      await using vmm = await VmmProcess.start();
      await STATES[state]?.(vmm);

      const sent = performance.now();
      vmm.child.kill(signal);

      expect(await vmm.exitCode()).toBe(0);
      expect(performance.now() - sent).toBeLessThan(1000);
      expect(existsSync(vmm.socket)).toBe(false);
      expect(existsSync(`${vmm.socket}.lock`)).toBe(true);
    },
  );

  test('SIGUSR1, SIGUSR2, SIGPIPE and SIGWINCH change nothing', async () => {
    await using vmm = await VmmProcess.start();
    await STATES[state]?.(vmm);

    for (const signal of ['SIGUSR1', 'SIGUSR2', 'SIGPIPE', 'SIGWINCH'] as const)
      vmm.child.kill(signal);
    await new Promise((resolve) => setTimeout(resolve, 100));

    expect((await vmm.get('vmm.ping')).status).toBe(200);
  });
});

const runWith = (...args: string[]) =>
  spawnSync(LAUNCHER, args, { encoding: 'utf8', env: {}, cwd: folder, timeout: 10_000 });

/** What holds the inode, as in /proc/locks. proc(5) */
const locksOn = (path: string): string[] =>
  readFileSync('/proc/locks', 'utf8')
    .split('\n')
    .filter((line) => line.includes(`:${statSync(path).ino} `))
    .map((line) => line.split(/\s+/).slice(1, 4).join(' '));

test('PATH.lock is held as long as the process lives, and stays', async () => {
  await using vmm = await VmmProcess.start();
  const lock = `${vmm.socket}.lock`;
  expect(statSync(lock).mode & 0o777).toBe(0o600);
  expect(locksOn(lock)).toEqual(['OFDLCK ADVISORY WRITE']);

  await vmm.put('vmm.shutdown');

  expect(await vmm.exitCode()).toBe(0);
  expect(locksOn(lock)).toEqual([]);
});

test.each([
  ['a file with contents', (path: string) => writeFileSync(path, 'precious')],
  ['a folder', (path: string) => mkdirSync(path)],
  ['a FIFO', (path: string) => execFileSync('mkfifo', [path])],
  ['a symbolic link', (path: string) => symlinkSync('/dev/null', path)],
])('%s at the path of the API socket stays, and is named', (_name, put) => {
  const path = join(folder, 'api.sock');
  put(path);

  const { status, stderr } = runWith('--api-socket', path);

  expect(status).toBe(1);
  expect(stderr).toContain(
    `  1: API socket "${path}" is there already, and no socket; remove it or name another\n`,
  );
  expect(readdirSync(folder)).toContain('api.sock');
});

test.each([
  ['ends the process with 0', [], 'gone'],
  ['with --no-shutdown leaves it, and the VM Created', ['--no-shutdown'], 'Created'],
])("a guest's power-off %s", async (_name, args, outcome) => {
  await using vmm = await VmmProcess.start({ args: () => args });
  await enter(vmm, streaming(3), 'vm.create', 'vm.boot');

  if (outcome === 'gone') {
    expect(await vmm.exitCode()).toBe(0);
    expect(existsSync(vmm.socket)).toBe(false);
  } else {
    await expect.poll(() => vmm.state(), SOON).toBe(outcome);
    await enter(vmm, streaming(3), 'vm.boot');
  }
  const shown = () => readFileSync(join(vmm.folder, 'com1'), 'utf8');
  await expect.poll(shown, SOON).toBe('012END');
});

const FAILING = ['--kernel', '/dev/null', '--console', 'off'];

test('the log has the format that was asked for, on stderr and in a file', () => {
  const format = ['--log-format', '{glog} {level}[{thread}] {msg}'];
  const line = /^\d{4} \d\d:\d\d:\d\d\.\d{6} ERROR\[main\] Fatal error: [^\r\n]+\r\n/;

  const { status, stderr } = runWith(...FAILING, ...format);
  const logged = runWith(...FAILING, ...format, '--log-file', 'log');

  expect(status).toBe(1);
  expect(stderr).toMatch(line);
  expect(logged.stderr).toMatch(/^Error: /);
  expect(readFileSync(join(folder, 'log'), 'utf8')).toMatch(line);
});

test('a log format with a token that there is not is refused', () => {
  const { status, stderr } = runWith('--log-format', '{bogus} {msg}', '--log-file', 'log');

  expect(status).toBe(1);
  expect(stderr).toContain(
    "  0: Error parsing logger format\n  1: Unknown format token '{bogus}'\n",
  );
});

test.each([
  [['--seccomp', 'true'], '--seccomp has no effect'],
  [['--seccomp', 'false'], ''],
  [['--landlock'], 'landlock_enable has no effect'],
  [[], ''],
])('%j confines nothing, and the log says so if it was asked for', (args, warning) => {
  const { stderr } = runWith(...FAILING, ...args);

  expect(stderr.match(/\S+ has no effect/)?.[0] ?? '').toBe(warning);
});

test('--restore is refused by name, for nothing serves it yet', () => {
  const { status, stderr } = runWith('--restore', 'source_url=file:///nowhere');

  expect(status).toBe(1);
  expect(stderr).toContain('error:\n  Not supported yet: --restore\n');
});

test('--event-monitor with a file that cannot be is refused', () => {
  const { status, stderr } = runWith('--event-monitor', 'path=/nowhere/events');

  expect(status).toBe(1);
  expect(stderr).toContain(
    '  0: Error doing event monitor I/O\n  1: No such file or directory (os error 2)\n',
  );
});

/** A copy of the product that anybody may use. */
function copyOfProduct(): string {
  const copy = join(folder, 'product');
  cpSync(dirname(LAUNCHER), copy, { recursive: true });
  for (const path of [folder, copy]) chmodSync(path, 0o755);
  return join(copy, 'cloud-hypervisor');
}

test('a copy of dist in another place boots a VM, with nothing in the environment', async () => {
  await using vmm = await VmmProcess.start({ launcher: copyOfProduct() });
  await enter(vmm, printing('here'), 'vm.create', 'vm.boot');

  const shown = () => readFileSync(join(vmm.folder, 'com1'), 'utf8');
  await expect.poll(shown, SOON).toBe('here');
  expect(readFileSync(`/proc/${vmm.pid}/maps`, 'utf8')).not.toContain(dirname(LAUNCHER));
});

const NOBODY = 65534;
const CAP_NET_ADMIN = 1n << 12n;

test('a capability of the file is that of the process, and ambient, for any user', async () => {
  const launcher = copyOfProduct();
  execFileSync('setcap', ['cap_net_admin+ep', launcher]);

  await using vmm = await VmmProcess.start({ launcher, id: NOBODY });

  const status = readFileSync(`/proc/${vmm.pid}/status`, 'utf8');
  const set = (name: string) => BigInt(`0x${new RegExp(`${name}:\\s*(\\w+)`).exec(status)?.[1]}`);
  expect(status).toMatch(/^Uid:\t65534\t65534\t65534/m);
  expect(set('CapAmb')).toBe(CAP_NET_ADMIN);
  expect(set('CapEff')).toBe(CAP_NET_ADMIN);
});

test('on one CPU a VM boots, and costs no time once it is idle', async () => {
  await using vmm = await VmmProcess.start({ through: ['/usr/bin/taskset', '-c', '0'] });
  await enter(vmm, printing('x'), 'vm.create', 'vm.boot');
  const shown = () => readFileSync(join(vmm.folder, 'com1'), 'utf8');
  await expect.poll(shown, SOON).toBe('x');

  expect(await ticksOfASecond(vmm.pid)).toBe(0);
});

test('with every descriptor closed and another name it boots a VM', async () => {
  const close = Array.from({ length: 256 }, (_, fd) => `${fd}>&-`);
  await using vmm = await VmmProcess.start({
    through: ['/bin/bash', '-c', `exec -a '' "$0" "$@" ${close.slice(0, 255).join(' ')}`],
  });
  await enter(vmm, printing('x'), 'vm.create', 'vm.boot');

  const shown = () => readFileSync(join(vmm.folder, 'com1'), 'utf8');
  await expect.poll(shown, SOON).toBe('x');
  expect(readFileSync(`/proc/${vmm.pid}/comm`, 'utf8')).toBe('cloud-hyperviso\n');
  for (const fd of [0, 1, 2]) expect(readlinkSync(`/proc/${vmm.pid}/fd/${fd}`)).toBe('/dev/null');
});
