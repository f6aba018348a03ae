/** COM1 from outside: a pty, a socket, the terminal that the VMM was started in. */
import {
  closeSync,
  constants,
  existsSync,
  openSync,
  readFileSync,
  statSync,
  writeFileSync,
} from 'node:fs';
import { connect } from 'node:net';
import { join } from 'node:path';
import { describe, expect, test } from 'vitest';
import { elfKernel, HALT, notes, PT_NOTE, pvhNote } from '../support/kernels.ts';
import { ticksOfASecond } from './support/cpu-time.ts';
import { Peer } from './support/peer.ts';
import { echoing, printing, streaming, streamText } from './support/serial-guests.ts';
import { TestTerminal } from './support/terminal.ts';
import { carriesBytesOverReboots, done } from './support/verbs.ts';
import { VmmProcess } from './support/vmm-process.ts';

const RING_BYTES = 64 * 1024;
const SOON = { timeout: 10_000, interval: 5 };

interface Serial {
  mode: string;
  file?: string;
  socket?: string;
}

function configOf(vmm: VmmProcess, serial: Serial, kernel: Uint8Array = echoing) {
  const path = join(vmm.folder, 'vmlinux');
  writeFileSync(path, kernel);
  const memory = { size: 32 << 20 };
  return { payload: { kernel: path }, memory, serial, console: { mode: 'Off' } };
}

async function created(vmm: VmmProcess, serial: Serial, kernel?: Uint8Array): Promise<void> {
  const { status, text } = await vmm.put('vm.create', configOf(vmm, serial, kernel));
  expect(status, text).toBe(204);
}

const ptyOf = async (vmm: VmmProcess): Promise<string> => {
  const { body } = await vmm.get('vm.info');
  return (body as { config: { serial: Serial } }).config.serial.file ?? '';
};

/** How to get a serial port of each kind, and to its far end. */
const KINDS = {
  pty: { serial: (): Serial => ({ mode: 'Pty' }), path: ptyOf, join: Peer.ofPty },
  socket: {
    serial: (vmm: VmmProcess): Serial => ({ mode: 'Socket', socket: join(vmm.folder, 'com1') }),
    path: async (vmm: VmmProcess) => join(vmm.folder, 'com1'),
    join: Peer.ofSocket,
  },
};

describe.each(Object.entries(KINDS))('a %s', (_name, { serial, path, join: attach }) => {
  test('carries bytes both ways, and the same one does after every reboot', async () => {
    await using vmm = await VmmProcess.start();
    await created(vmm, serial(vmm));
    const name = await path(vmm);
    using peer = await attach(name);

    await carriesBytesOverReboots(vmm, peer);
    expect(await path(vmm)).toBe(name);
  });

  test('keeps output for who comes, and takes one after the other', async () => {
    await using vmm = await VmmProcess.start();
    await created(vmm, serial(vmm));
    await done(vmm, 'vm.boot');
    const name = await path(vmm);

    for (const expected of ['up ', '', '']) {
      using peer = await attach(name);
      await peer.shows(expected);
      peer.type('x');
      await peer.shows(`${expected}x`);
    }
  });

  test('keeps the newest 64 KiB of a guest that nobody listens to', async () => {
    await using vmm = await VmmProcess.start({ args: () => ['--no-shutdown'] });
    const bytes = 80_000;
    await created(vmm, serial(vmm), streaming(bytes, 'halt'));
    await done(vmm, 'vm.boot');
    await new Promise((resolve) => setTimeout(resolve, 4000));

    using peer = await attach(await path(vmm));

    await peer.shows(`${streamText(bytes)}END`.slice(-RING_BYTES));
  });

  test('costs no time while nobody is there', async () => {
    await using vmm = await VmmProcess.start();
    await created(vmm, serial(vmm), printing('x'));
    await done(vmm, 'vm.boot');
    expect(await ticksOfASecond(vmm.pid)).toBe(0);
    {
      using peer = await attach(await path(vmm));
      await peer.shows('x');
    }
    expect(await ticksOfASecond(vmm.pid)).toBe(0);
  });

  test('that does not read stalls neither the guest nor the API', async () => {
    await using vmm = await VmmProcess.start({ args: () => ['--no-shutdown'] });
    await created(vmm, serial(vmm), streaming(320_000));
    await done(vmm, 'vm.boot');
    const name = await path(vmm);
    const fd = name.startsWith('/dev') ? openSync(name, constants.O_RDWR | constants.O_NOCTTY) : -1;
    const stalled = fd === -1 ? connect(name).pause() : undefined;

    // The guest comes to its power-off.
    await expect.poll(() => vmm.state(), { timeout: 25_000 }).toBe('Created');

    stalled?.destroy();
    if (fd !== -1) closeSync(fd);
  });
});

test('a pty has its name from create to delete, whatever the config said', async () => {
  await using vmm = await VmmProcess.start();
  await created(vmm, { mode: 'Pty', file: '/nowhere' });
  const name = await ptyOf(vmm);
  expect(name).toMatch(/^\/dev\/pts\/\d+$/);
  expect(statSync(name).isCharacterDevice()).toBe(true);

  for (const verb of ['vm.boot', 'vm.reboot', 'vm.shutdown', 'vm.boot']) {
    await done(vmm, verb);
    expect(await ptyOf(vmm)).toBe(name);
  }

  await done(vmm, 'vm.delete');
  expect(existsSync(name)).toBe(false);
});

test('a socket is there from create to shutdown, and from boot to delete', async () => {
  await using vmm = await VmmProcess.start();
  const socket = join(vmm.folder, 'com1');
  await created(vmm, { mode: 'Socket', socket });
  expect(statSync(socket).isSocket()).toBe(true);
  await done(vmm, 'vm.boot');
  using peer = await Peer.ofSocket(socket);
  await peer.shows('up ');

  await done(vmm, 'vm.shutdown');
  await expect.poll(() => peer.ended, SOON).toBe(true);
  expect(existsSync(socket)).toBe(false);

  await done(vmm, 'vm.boot');
  using next = await Peer.ofSocket(socket);
  await next.shows('up ');
  await done(vmm, 'vm.delete');
  expect(existsSync(socket)).toBe(false);
});

test('a new client of a socket takes the place of the one before it', async () => {
  await using vmm = await VmmProcess.start();
  const socket = join(vmm.folder, 'com1');
  await created(vmm, { mode: 'Socket', socket });
  await done(vmm, 'vm.boot');
  using first = await Peer.ofSocket(socket);
  await first.shows('up ');

  using second = await Peer.ofSocket(socket);

  await expect.poll(() => first.ended, SOON).toBe(true);
  second.type('x');
  await second.shows('x');
});

test.each([
  ['a file', (path: string) => writeFileSync(path, 'precious'), 'Address already in use', 98],
  ['nothing, in no folder', () => {}, 'No such file or directory', 2],
])(
  'a socket where there is %s is refused, and nothing is created',
  async (_name, put, text, no) => {
    await using vmm = await VmmProcess.start();
    const socket = no === 2 ? join(vmm.folder, 'none/com1') : join(vmm.folder, 'com1');
    put(socket);

    const { status, body } = await vmm.put('vm.create', configOf(vmm, { mode: 'Socket', socket }));

    expect(status).toBe(400);
    expect(body).toEqual([
      'Error from API',
      'The VM could not be created',
      'Error creating console devices',
      'Error creating console device',
      `${text} (os error ${no})`,
      expect.stringContaining(`serial.socket is ${socket}`),
    ]);
    expect(await vmm.state()).toBe('None');
    if (no === 98) expect(readFileSync(socket, 'utf8')).toBe('precious');
  },
);

test('a file is empty from create on, and after every boot only what that one wrote', async () => {
  await using vmm = await VmmProcess.start();
  const file = join(vmm.folder, 'com1');
  writeFileSync(file, 'of old');
  await created(vmm, { mode: 'File', file }, printing('new'));
  expect(readFileSync(file, 'utf8')).toBe('');

  for (const verb of ['vm.boot', 'vm.reboot']) {
    await done(vmm, verb);
    await expect.poll(() => readFileSync(file, 'utf8'), SOON).toBe('new');
  }

  const none = join(vmm.folder, 'none/com1');
  await done(vmm, 'vm.delete');
  const { body } = await vmm.put('vm.create', configOf(vmm, { mode: 'File', file: none }));
  expect(body).toContain('No such file or directory (os error 2)');
  expect(body).toContain(`serial.file is ${none}: name a file that can be written`);
});

test('a boot that fails leaves no socket behind', async () => {
  await using vmm = VmmProcess.launch({
    args: (folder) => ['--kernel', '/dev/null', '--serial', `socket=${folder}/com1`],
  });

  expect(await vmm.exitCode()).toBe(1);
  expect(existsSync(join(vmm.folder, 'com1'))).toBe(false);
});

test.each(['SIGTERM', 'SIGINT', 'SIGHUP'] as const)('%s removes the socket', async (signal) => {
  await using vmm = await VmmProcess.start();
  const socket = join(vmm.folder, 'com1');
  await created(vmm, { mode: 'Socket', socket });

  vmm.child.kill(signal);

  expect(await vmm.exitCode()).toBe(0);
  expect(existsSync(socket)).toBe(false);
});

/** Starts a guest on the terminal, from the command line, and waits until it is up. */
async function onTerminal(terminal: TestTerminal, ...more: string[]): Promise<VmmProcess> {
  const vmm = await VmmProcess.start({
    stdio: [terminal.fd, terminal.fd, terminal.fd],
    args: (folder) => {
      const kernel = join(folder, 'vmlinux');
      writeFileSync(kernel, echoing);
      return ['--kernel', kernel, '--serial', 'tty', '--console', 'off', ...more];
    },
  });
  await expect.poll(() => terminal.shown, SOON).toContain('up ');
  return vmm;
}

const outsideRam = { gpa: 1 << 30, bytes: HALT, sizeBytes: 4096 };
const pvhAt = (gpa: number) => ({ type: PT_NOTE, gpa: 0, bytes: notes([pvhNote(gpa)]) });

describe('a terminal', () => {
  test('is raw while a guest has it: Ctrl-C is typed, and goes to the guest after reboots', async () => {
    using terminal = await TestTerminal.open();
    await using vmm = await onTerminal(terminal);
    expect(terminal.isRaw).toBe(true);

    terminal.type('a\r\x03');
    await expect.poll(() => terminal.shown, SOON).toBe('up a\r\x03');
    await done(vmm, 'vm.reboot');
    terminal.type('b');
    await expect.poll(() => terminal.shown, SOON).toBe('up a\r\x03up b');
    terminal.type('R');
    await expect.poll(() => terminal.shown, SOON).toBe('up a\r\x03up bup ');
    terminal.type('c');
    await expect.poll(() => terminal.shown, SOON).toBe('up a\r\x03up bup c');
    expect(terminal.isRaw).toBe(true);
  });

  const ENDS: Record<string, (vmm: VmmProcess, terminal: TestTerminal) => unknown> = {
    'a power-off by the guest': (_vmm, terminal) => terminal.type('Q'),
    'vm.shutdown': (vmm) => done(vmm, 'vm.shutdown'),
    'vm.delete': (vmm) => done(vmm, 'vm.delete'),
    'vmm.shutdown': (vmm) => vmm.put('vmm.shutdown'),
    SIGTERM: (vmm) => vmm.child.kill('SIGTERM'),
    SIGINT: (vmm) => vmm.child.kill('SIGINT'),
    SIGHUP: (vmm) => vmm.child.kill('SIGHUP'),
  };

  test.each(Object.keys(ENDS))('is as it was after %s', async (end) => {
    using terminal = await TestTerminal.open();
    const before = terminal.settings;
    await using vmm = await onTerminal(terminal);
    expect(terminal.settings).not.toBe(before);

    await ENDS[end]?.(vmm, terminal);

    await expect.poll(() => terminal.settings, SOON).toBe(before);
    if (!end.startsWith('vm.')) expect(await vmm.exitCode()).toBe(0);
  });

  test('is as it was after a boot that fails late, and raw again after one that does not', async () => {
    using terminal = await TestTerminal.open();
    const before = terminal.settings;
    await using vmm = await VmmProcess.start({ stdio: [terminal.fd, terminal.fd, 'ignore'] });
    const config = configOf(vmm, { mode: 'Tty' });
    expect((await vmm.put('vm.create', config)).status).toBe(204);
    // Found unfit only when the terminal is in use.
    writeFileSync(
      config.payload.kernel,
      elfKernel({ segments: [outsideRam, pvhAt(outsideRam.gpa)] }),
    );

    expect((await vmm.put('vm.boot')).status).toBe(400);
    expect(terminal.settings).toBe(before);

    writeFileSync(config.payload.kernel, echoing);
    await done(vmm, 'vm.boot');
    expect(terminal.isRaw).toBe(true);
    terminal.type('x');
    await expect.poll(() => terminal.shown, SOON).toBe('up x');
  });

  test('that is idle costs no time', async () => {
    using terminal = await TestTerminal.open();
    await using vmm = await onTerminal(terminal);

    expect(await ticksOfASecond(vmm.pid)).toBe(0);
  });
});

/** With `tty` and no terminal: what stdin is, as a shell writes it. */
const STDINS = {
  '/dev/null': '</dev/null',
  'a file at its end': '<empty',
  'a pipe that nobody writes to': '< <(exec sleep 100)',
  'a pipe whose writer has gone': '< <(true)',
  closed: '<&-',
  'closed with everything else': '<&- >&- 2>&- 3<&- 4<&- 5<&- 6<&- 7<&- 8<&- 9<&-',
  'a folder': '</',
};

test.each(Object.entries(STDINS))('tty costs no time where stdin is %s', async (name, redirect) => {
  await using vmm = await VmmProcess.start({
    through: ['/bin/bash', '-c', `: >empty; exec "$0" "$@" >shown ${redirect}`],
    args: (folder) => {
      writeFileSync(join(folder, 'vmlinux'), printing('shown'));
      return ['--kernel', 'vmlinux', '--serial', 'tty', '--console', 'off'];
    },
  });
  const shown = () => readFileSync(join(vmm.folder, 'shown'), 'utf8');

  if (name !== 'closed with everything else') await expect.poll(shown, SOON).toBe('shown');

  expect(await vmm.state()).toBe('Running');
  expect(await ticksOfASecond(vmm.pid)).toBe(0);
});

test('tty takes input from a pipe, as much of it at a time as the guest does', async () => {
  await using vmm = await VmmProcess.start({
    stdio: ['pipe', 'pipe', 'ignore'],
    args: (folder) => {
      writeFileSync(join(folder, 'vmlinux'), echoing);
      return ['--kernel', 'vmlinux', '--serial', 'tty', '--console', 'off'];
    },
  });
  let shown = '';
  vmm.child.stdout?.on('data', (bytes: Buffer) => {
    shown += bytes.toString('latin1');
  });
  const typed = streamText(3000).replaceAll(/[QR]/g, '.');

  vmm.child.stdin?.end(typed);

  await expect.poll(() => shown, SOON).toBe(`up ${typed}`);
});
