import { type ChildProcess, spawn, spawnSync } from 'node:child_process';
import {
  copyFileSync,
  existsSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  rmSync,
  statSync,
  writeFileSync,
} from 'node:fs';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { buildLauncher } from '../../scripts/build/launcher.ts';
import { helpText } from '../../src/api/help.ts';
import { exchange } from './support/http.ts';

const ROOT = join(import.meta.dirname, '../..');
const LAUNCHER = join(ROOT, 'dist/cloud-hypervisor');
const PING = 'GET /api/v1/vmm.ping HTTP/1.1\r\n\r\n';

let directory: string;
let socket: string;
let children: ChildProcess[];

beforeEach(() => {
  directory = mkdtempSync(join(tmpdir(), 'launcher-'));
  socket = join(directory, 'api.sock');
  children = [];
});

afterEach(() => {
  for (const child of children) child.kill('SIGKILL');
  rmSync(directory, { recursive: true });
});

type Stdio = Parameters<typeof spawn>[2]['stdio'];

/** Started through a shell, for what only a shell can do to a process before it is one. */
function start(command: string, env: Record<string, string> = {}, stdio: Stdio = 'ignore') {
  const child = spawn('/bin/bash', ['-c', `exec ${command}`], { cwd: directory, env, stdio });
  children.push(child);
  return child;
}

/** The answer to a ping as soon as there is one. */
async function answersPing(): Promise<string> {
  let answer = '';
  const ping = async () => {
    answer = await exchange(socket, PING).catch(() => '');
    return answer;
  };
  await expect.poll(ping, { timeout: 5000, interval: 5 }).not.toBe('');
  return answer;
}

const run = (...args: string[]) => spawnSync(LAUNCHER, args, { encoding: 'utf8', env: {} });

const chain = (...texts: string[]) =>
  `Error: Cloud Hypervisor exited with the following chain of errors:\n${texts
    .map((text, i) => `  ${i}: ${text}\n`)
    .join('')}`;

test.each([['--version'], ['-V'], ['-vV'], ['--kernel', '/nope', '--version']])(
  '%s prints one line, without node or a bundle',
  (...args) => {
    const alone = join(directory, 'cloud-hypervisor');
    copyFileSync(LAUNCHER, alone);

    const { status, stdout, stderr } = spawnSync(alone, args, { encoding: 'utf8', env: {} });

    expect({ status, stdout, stderr }).toEqual({
      status: 0,
      stdout: 'cloud-hypervisor v49.0.0\n',
      stderr: '',
    });
  },
);

test('--help goes to stdout, and without arguments to stderr as a mistake', () => {
  expect(run('--help')).toMatchObject({ status: 0, stdout: helpText(), stderr: '' });
  expect(run('-h')).toMatchObject({ status: 0, stdout: helpText(), stderr: '' });
  expect(run()).toMatchObject({ status: 2, stdout: '', stderr: helpText() });
});

test('the process that was started is the VMM, by its own name, without PATH', async () => {
  const child = start(`-a other ${LAUNCHER} --api-socket ${socket}`);

  expect(await answersPing()).toContain(`"pid":${child.pid}`);
  const proc = `/proc/${child.pid}`;
  expect(readFileSync(`${proc}/comm`, 'utf8')).toBe('cloud-hyperviso\n'); // the kernel's 15 bytes
  expect(readFileSync(`${proc}/cmdline`, 'utf8')).toMatch(/^other\0/);
});

test('what would change how node starts is dropped from the environment', async () => {
  const unwanted = { NODE_OPTIONS: '--bad', LD_LIBRARY_PATH: '/x', OPENSSL_CONF: '/x' };
  const child = start(`${LAUNCHER} --api-socket ${socket}`, { ...unwanted, KEPT: '1' });

  expect(await answersPing()).toContain('200');
  const names = readFileSync(`/proc/${child.pid}/environ`, 'utf8').split('\0');
  expect(names).toContain('KEPT=1');
  expect(names.filter((name) => /^(NODE_|LD_|OPENSSL_CONF)/.test(name))).toEqual([]);
});

test('with every standard fd closed it runs, and nothing else takes their place', async () => {
  const child = start(`${LAUNCHER} --api-socket ${socket} <&- >&- 2>&-`);

  expect(await answersPing()).toContain('200');
  const targets = [0, 1, 2].map((fd) => readlinkSync(`/proc/${child.pid}/fd/${fd}`));
  expect(targets).toEqual(['/dev/null', '/dev/null', '/dev/null']);
});

test('node gets one worker thread, whatever the host has', async () => {
  const child = start(`${LAUNCHER} --api-socket ${socket}`);

  await answersPing();
  expect(readdirSync(`/proc/${child.pid}/task`).length).toBeLessThanOrEqual(4);
});

test.each(['SIGTERM', 'SIGINT', 'SIGHUP'] as const)(
  '%s ends it with 0; the socket goes, the lock stays',
  async (signal) => {
    const child = start(`${LAUNCHER} --api-socket path=${socket}`);
    const ended = new Promise((resolve) => child.on('exit', (...how) => resolve(how)));
    await answersPing();
    expect(statSync(socket).mode & 0o777).toBe(0o700);

    child.kill(signal);

    expect(await ended).toEqual([0, null]);
    expect(readdirSync(directory)).toEqual(['api.sock.lock']);
  },
);

test('SIGUSR1 opens no port for debuggers', async () => {
  const child = start(`${LAUNCHER} --api-socket ${socket}`);
  await answersPing();

  child.kill('SIGUSR1');

  expect(await answersPing()).toContain('200');
  const sockets = () =>
    readdirSync(`/proc/${child.pid}/fd`).filter((fd) => linkOf(child, fd).startsWith('socket:'));
  await expect.poll(() => sockets().length).toBe(1); // the API's, once our connections are gone
});

/** Empty if the fd has been closed since it was listed. */
function linkOf(child: ChildProcess, fd: string): string {
  try {
    return readlinkSync(`/proc/${child.pid}/fd/${fd}`);
  } catch {
    return '';
  }
}

test.each([
  ['foo=x', 'foo=x'],
  ['x,foo=1', 'x,foo=1'],
  ['path=x,foo=1', 'x,foo=1'],
  ['fd=x', 'fd=x'],
])('--api-socket %s is a path as it stands', async (value, name) => {
  const child = start(`${LAUNCHER} --api-socket ${value}`);
  socket = join(directory, name);

  expect(await answersPing()).toContain(`"pid":${child.pid}`);
});

test('a second process on the same path is refused, and the first goes on', async () => {
  start(`${LAUNCHER} --api-socket ${socket}`);
  await answersPing();

  const second = run('--api-socket', socket);

  expect(second.status).toBe(1);
  expect(second.stdout).toBe('');
  const [line, ...rest] = second.stderr.split('\r\n');
  expect(line).toMatch(
    /^cloud-hypervisor: {3}\d\.\d{6}s: <main> ERROR:.* -- Fatal error: API socket/,
  );
  const text = `API socket "${socket}" is already in use by another running instance`;
  expect(rest.join()).toBe(chain('Failed to start the VMM thread', text));
  expect(await answersPing()).toContain('200');
});

test('a socket that a killed process left is replaced', async () => {
  const killed = start(`${LAUNCHER} --api-socket ${socket}`);
  const ended = new Promise((resolve) => killed.on('exit', resolve));
  await answersPing();
  killed.kill('SIGKILL');
  await ended;

  const next = start(`${LAUNCHER} --api-socket=${socket}`);

  await expect
    .poll(() => exchange(socket, PING).catch(() => ''), { timeout: 5000 })
    .toContain(`"pid":${next.pid}`);
});

test('a socket on which another program listens is left to it', async () => {
  const other = createServer((client) => client.on('error', () => {}).end('mine'));
  await new Promise<void>((resolve) => other.listen(socket, resolve));

  // Not spawnSync: the listener is in this process, and connecting needs no accept.
  const { status, stderr } = run('--api-socket', socket, '--log-file', join(directory, 'log'));

  expect(status).toBe(1);
  expect(stderr).toContain('is already in use by another running instance');
  expect(stderr).toMatch(/^Error: /); // with a log file, no line of log on stderr
  expect(await exchange(socket, '')).toBe('mine');
  await new Promise((resolve) => other.close(resolve));
});

test('an empty file at the path is replaced, one with contents is not', async () => {
  writeFileSync(socket, 'precious');
  expect(run('--api-socket', socket)).toMatchObject({ status: 1 });
  expect(readFileSync(socket, 'utf8')).toBe('precious');

  writeFileSync(socket, '');
  start(`${LAUNCHER} --api-socket ${socket}`);

  await expect.poll(() => statSync(socket).isSocket(), { timeout: 5000 }).toBe(true);
  expect(await answersPing()).toContain('200');
});

test('an inherited fd is served, and leaves no lock', async () => {
  const script = [
    'import os, socket, sys',
    'listener = socket.socket(socket.AF_UNIX)',
    'listener.bind(sys.argv[1])',
    'listener.listen()',
    'os.dup2(listener.fileno(), 9)',
    "os.execv(sys.argv[2], [sys.argv[2], '--api-socket', 'fd=9'])",
  ];
  const child = start(`/usr/bin/python3 -c "${script.join('\n')}" ${socket} ${LAUNCHER}`);

  expect(await answersPing()).toContain(`"pid":${child.pid}`);
  expect(readdirSync(directory)).toEqual(['api.sock']);
});

const START = 'Failed to start the VMM thread';
const CREATE = "Error creation API server's socket";

test.each([
  ['a missing directory', 'nodir/x', [START, CREATE, 'No such file or directory (os error 2)']],
  ['an fd that is not open', 'fd=77', [START, CREATE, 'Bad file descriptor (os error 9)']],
  ['no path', 'path=', [START, 'API socket "" names no path']],
  [
    'a path that is too long',
    '/tmp/'.padEnd(120, 'x'),
    [
      START,
      `API socket "${'/tmp/'.padEnd(120, 'x')}" is longer than a socket path can be, 107 bytes`,
    ],
  ],
])('%s is an error that says so', (_name, value, texts) => {
  const { status, stderr } = run('--api-socket', value);

  expect(status).toBe(1);
  expect(stderr.split('\r\n')[1]).toBe(chain(...texts));
});

test('a mistake on the command line leaves no socket behind', () => {
  const { status, stderr } = run('--api-socket', socket, '--bogus');

  expect(status).toBe(2);
  expect(stderr).toContain("error: unexpected argument '--bogus' found");
  expect(existsSync(socket)).toBe(false);
});

test('without its bundle, and without node, it says what to do', () => {
  buildLauncher({ root: ROOT, dist: directory, help: 'x', version: 'x', nodes: [] });
  const lonely = join(directory, 'cloud-hypervisor');
  const start = () =>
    spawnSync(lonely, ['--api-socket', socket], { encoding: 'utf8', env: { PATH: '' } });

  expect(start()).toMatchObject({ status: 1, stderr: expect.stringContaining('npm run build') });

  writeFileSync(join(directory, 'loader.cjs'), '');
  expect(start()).toMatchObject({ status: 1, stderr: expect.stringContaining('install Node.js') });
  expect(existsSync(socket)).toBe(false);
});
