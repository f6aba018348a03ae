/** The virtio console from outside, with a guest that drives it: wherever it can be plugged in. */
import { execFileSync } from 'node:child_process';
import { existsSync, readFileSync, statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, test } from 'vitest';
import { bareGuest } from '../support/bare-guest.ts';
import { ticksOfASecond } from './support/cpu-time.ts';
import { Peer } from './support/peer.ts';
import { TestTerminal } from './support/terminal.ts';
import { carriesBytesOverReboots, done } from './support/verbs.ts';
import { VmmProcess } from './support/vmm-process.ts';

const SOON = { timeout: 10_000, interval: 5 };

interface Char {
  mode: string;
  file?: string;
  socket?: string;
}

const kernel = bareGuest('console');

const configOf = (console: Char, serial: Char = { mode: 'Null' }) => ({
  payload: { kernel },
  memory: { size: 32 << 20 },
  console,
  serial,
});

async function created(vmm: VmmProcess, console: Char, serial?: Char): Promise<void> {
  const { status, text } = await vmm.put('vm.create', configOf(console, serial));
  expect(status, text).toBe(204);
}

async function fileOf(vmm: VmmProcess, field: 'console' | 'serial'): Promise<string> {
  const { body } = await vmm.get('vm.info');
  return (body as { config: Record<string, Char> }).config[field]?.file ?? '';
}

/** How to get a console of each kind, and to its far end. */
const KINDS = {
  pty: {
    settings: (): Char => ({ mode: 'Pty' }),
    path: (vmm: VmmProcess) => fileOf(vmm, 'console'),
    attach: Peer.ofPty,
  },
  socket: {
    settings: (vmm: VmmProcess): Char => ({ mode: 'Socket', socket: join(vmm.folder, 'hvc0') }),
    path: async (vmm: VmmProcess) => join(vmm.folder, 'hvc0'),
    attach: Peer.ofSocket,
  },
};

describe.each(Object.entries(KINDS))('a %s', (_name, { settings, path, attach }) => {
  test('carries bytes both ways, and the same one does after every reboot', async () => {
    await using vmm = await VmmProcess.start();
    await created(vmm, settings(vmm));
    const name = await path(vmm);
    using peer = await attach(name);

    await carriesBytesOverReboots(vmm, peer);
    expect(await path(vmm)).toBe(name);
  });

  test('keeps output for who comes, and has no window', async () => {
    await using vmm = await VmmProcess.start();
    await created(vmm, settings(vmm));
    await done(vmm, 'vm.boot');

    using peer = await attach(await path(vmm));

    await peer.shows('up ');
    peer.type('W');
    await peer.shows('up 0x0 ');
  });

  test('carries long input to a guest that takes it in small pieces, paused or not', async () => {
    await using vmm = await VmmProcess.start();
    await created(vmm, settings(vmm));
    await done(vmm, 'vm.boot');
    using peer = await attach(await path(vmm));
    await peer.shows('up ');
    const text = Array.from({ length: 2000 }, (_, i) => `${i}`.padStart(5, '.')).join('');

    peer.type(text.slice(0, 5000));
    await done(vmm, 'vm.pause');
    peer.type(text.slice(5000));
    await done(vmm, 'vm.resume');

    await peer.shows(`up ${text}`);
  });

  test('costs no time while nobody is there, or says anything', async () => {
    await using vmm = await VmmProcess.start();
    await created(vmm, settings(vmm));
    await done(vmm, 'vm.boot');
    using peer = await attach(await path(vmm));
    await peer.shows('up ');

    expect(await ticksOfASecond(vmm.pid)).toBe(0);
  });
});

test('ptys have their names from create on, that of the console first', async () => {
  await using vmm = await VmmProcess.start();
  await created(vmm, { mode: 'Pty' }, { mode: 'Pty' });
  const names = async () => [await fileOf(vmm, 'console'), await fileOf(vmm, 'serial')];
  const [console = '', serial = ''] = await names();
  const number = (path: string) => Number(/^\/dev\/pts\/(\d+)$/.exec(path)?.[1]);

  await done(vmm, 'vm.boot', 'vm.reboot', 'vm.shutdown', 'vm.boot');

  expect(await names()).toEqual([console, serial]);
  expect(number(console)).toBeLessThan(number(serial));
  await done(vmm, 'vm.delete');
  expect([existsSync(console), existsSync(serial)]).toEqual([false, false]);
});

test('a file is empty from create on, and after every boot has only what that one wrote', async () => {
  await using vmm = await VmmProcess.start();
  const file = join(vmm.folder, 'hvc0');
  writeFileSync(file, 'of old');
  await created(vmm, { mode: 'File', file });
  expect(readFileSync(file, 'utf8')).toBe('');

  await done(vmm, 'vm.boot');
  await expect.poll(() => readFileSync(file, 'utf8'), SOON).toBe('up ');
  writeFileSync(file, 'of before the reboot');
  await done(vmm, 'vm.reboot');
  await expect.poll(() => readFileSync(file, 'utf8'), SOON).toBe('up ');
});

test('a socket goes with the VM', async () => {
  await using vmm = await VmmProcess.start();
  const socket = join(vmm.folder, 'hvc0');
  await created(vmm, { mode: 'Socket', socket });
  expect(statSync(socket).isSocket()).toBe(true);
  await done(vmm, 'vm.boot', 'vm.shutdown');
  expect(existsSync(socket)).toBe(false);
});

test.each<[string, Char, string, number]>([
  ['a file in no folder', { mode: 'File', file: '/nowhere/hvc0' }, 'No such file or directory', 2],
  [
    'a socket in no folder',
    { mode: 'Socket', socket: '/nowhere/s' },
    'No such file or directory',
    2,
  ],
  [
    'a socket whose path is taken',
    { mode: 'Socket', socket: '/etc/passwd' },
    'Address already in use',
    98,
  ],
  [
    'a socket whose path is too long',
    { mode: 'Socket', socket: `/${'x'.repeat(107)}` },
    'File name too long',
    36,
  ],
])('%s is refused by name, and nothing is left', async (_, settings, text, errno) => {
  await using vmm = await VmmProcess.start();

  const { status, body } = await vmm.put('vm.create', configOf(settings, { mode: 'Pty' }));

  expect(status).toBe(400);
  expect(body).toContain(`${text} (os error ${errno})`);
  const at = settings.mode === 'File' ? 'console.file' : 'console.socket';
  expect((body as string[]).at(-1)).toContain(`${at} is ${settings.file ?? settings.socket}`);
  expect(await vmm.state()).toBe('None');
});

describe('the terminal', () => {
  const onTerminal = (terminal: TestTerminal, ...args: string[]) =>
    VmmProcess.start({
      stdio: [terminal.fd, terminal.fd, 'ignore'],
      args: () => ['--kernel', kernel, ...args],
    });

  test('is the console if nothing else is said: raw until the end, and after resets', async () => {
    using terminal = await TestTerminal.open();
    const before = terminal.settings;
    await using vmm = await onTerminal(terminal);
    await expect.poll(() => terminal.shown, SOON).toBe('up ');
    expect(terminal.isRaw).toBe(true);

    terminal.type('\x03R');
    await expect.poll(() => terminal.shown, SOON).toBe('up \x03up ');
    terminal.type('xQ');

    expect(await vmm.exitCode()).toBe(0);
    expect(terminal.shown).toBe('up \x03up x');
    expect(terminal.settings).toBe(before);
  });

  test('has a size, of which the guest hears, and of its changes', async () => {
    using terminal = await TestTerminal.open();
    execFileSync('stty', ['-F', terminal.path, 'cols', '100', 'rows', '40']);
    await using vmm = await onTerminal(terminal);
    await expect.poll(() => terminal.shown, SOON).toBe('up ');
    terminal.type('W');
    await expect.poll(() => terminal.shown, SOON).toBe('up 100x40 ');

    execFileSync('stty', ['-F', terminal.path, 'cols', '132', 'rows', '50']);
    vmm.child.kill('SIGWINCH');

    await expect.poll(() => terminal.shown, SOON).toBe('up 100x40 132x50 ');
  });

  test.each(['tty', 'null'])(
    'is typed at for serial port and console both, with --serial %s',
    async (serial) => {
      using terminal = await TestTerminal.open();
      await using vmm = await onTerminal(terminal, '--serial', serial, '--console', 'tty');
      await expect.poll(() => terminal.shown, SOON).toBe('up ');

      terminal.type('x');

      const both = serial === 'tty' ? 'up xx' : 'up x';
      await expect.poll(() => terminal.shown, SOON).toBe(both);
      expect(await ticksOfASecond(vmm.pid)).toBe(0);
    },
  );

  test('that is only the serial port is typed at for a console in a file, too', async () => {
    using terminal = await TestTerminal.open();
    await using vmm = await VmmProcess.start({
      stdio: [terminal.fd, terminal.fd, 'ignore'],
      args: () => ['--kernel', kernel, '--serial', 'tty', '--console', 'file=hvc0'],
    });
    const file = () => readFileSync(join(vmm.folder, 'hvc0'), 'utf8');
    await expect.poll(file, SOON).toBe('up ');

    terminal.type('x');

    await expect.poll(file, SOON).toBe('up x');
    await expect.poll(() => terminal.shown, SOON).toBe('x');
  });
});
