/**
 * The VMM as a service: how long an API call and a VM take, and what an idle VM costs.
 *
 *     npx tsx bench/service.ts [--peer NAME=PATH]... [--rounds N] [--json FILE]
 *
 * Subjects alternate within each round, and start in a clean environment. Of QEMU, which has no
 * such API, only exec → first guest byte is measured, as the yardstick.
 */
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { connect, type Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { microGuest } from './support/micro-guest.ts';
import { buildProbe } from './support/probe.ts';
import { switchesIn } from './support/proc.ts';
import { add, type Goal, report, type Samples } from './support/record.ts';
import { benchOptions, type Subject } from './support/subjects.ts';

const COLD = 'exec, create, boot → first guest byte';
const WARM = 'create, boot → first guest byte';
const EXEC = 'exec → first guest byte';
const PING_P50 = 'ping, p50';
const PING_P99 = 'ping, p99';
const USS = 'USS beyond RAM, MiB';
const RSS = 'RSS, MiB';
const SWITCHES = 'context switches in 10 s';

const GOALS: Goal[] = [
  { measure: COLD, limit: 1, times: { measure: EXEC, subject: 'QEMU microvm' } },
  { measure: WARM, limit: 0.5, times: { measure: EXEC, subject: 'QEMU microvm' } },
  { measure: PING_P50, limit: 0.1 },
  { measure: PING_P99, limit: 1 },
  { measure: USS, limit: 10 },
  { measure: RSS, limit: 20 },
  { measure: SWITCHES, limit: 0 },
];

const PINGS = 2000;
const CONNECT_RETRY_MS = 0.2;
const SETTLED_MS = 3000;
/** V8 looks over its heap once more, some eight seconds after it was last busy. */
const QUIET_MS = 15_000;
const IDLE_MS = 10_000;
const GUEST_RAM_KIB = 64 * 1024;

const root = join(import.meta.dirname, '..');
const directory = mkdtempSync(join(tmpdir(), 'service-'));
const socket = join(directory, 'socket');
const kernel = join(directory, 'kernel');
const samples: Samples = new Map();
const run = buildProbe(directory);

const CONFIG = JSON.stringify({
  payload: { kernel },
  memory: { size: GUEST_RAM_KIB * 1024 },
  serial: { mode: 'Tty' },
  console: { mode: 'Off' },
});

const start = (argv: readonly string[]): ChildProcess => {
  const [file = '', ...args] = argv;
  return spawn(file, args, {
    env: { PATH: '/usr/bin:/bin' },
    stdio: ['ignore', 'pipe', 'inherit'],
  });
};

async function open(): Promise<Socket> {
  for (;;) {
    const client = connect(socket);
    try {
      await once(client, 'connect');
      return client;
    } catch {
      await sleep(CONNECT_RETRY_MS);
    }
  }
}

const text = (method: string, verb: string, body = ''): string => {
  const length = body ? `Content-Length: ${Buffer.byteLength(body)}\r\n` : '';
  return `${method} /api/v1/${verb} HTTP/1.1\r\nHost: localhost\r\n${length}\r\n${body}`;
};

const CREATE = text('PUT', 'vm.create', CONFIG);
const BOOT = text('PUT', 'vm.boot');

async function ask(client: Socket, request: string): Promise<void> {
  client.write(request);
  const [answer] = (await once(client, 'data')) as [Buffer];
  if (!answer.toString('latin1').startsWith('HTTP/1.1 20'))
    throw new Error(`${request}: ${answer}`);
}

/** Creates and boots a VM; resolves with its first byte. */
async function firstByte(vmm: ChildProcess, client: Socket): Promise<void> {
  const byte = once(vmm.stdout ?? vmm, 'data');
  await ask(client, CREATE);
  await ask(client, BOOT);
  await byte;
}

async function end(vmm: ChildProcess): Promise<void> {
  const ended = once(vmm, 'exit');
  vmm.kill('SIGTERM');
  await ended;
  removeSocket();
}

function removeSocket(): void {
  for (const left of [socket, `${socket}.lock`]) rmSync(left, { force: true });
}

async function measureService(subject: Subject): Promise<void> {
  const { argv } = subject.api(socket);
  const [cold = 0] = run('boot', socket, CREATE, BOOT, '--', ...argv);
  add(samples, COLD, subject.name, cold);
  removeSocket();

  const vmm = start(argv);
  const client = await open();
  await firstByte(vmm, client);
  await ask(client, text('PUT', 'vm.delete'));
  await sleep(SETTLED_MS);

  const asked = performance.now();
  await firstByte(vmm, client);
  add(samples, WARM, subject.name, performance.now() - asked);

  const [p50 = 0, p99 = 0] = run('ping', socket, text('GET', 'vmm.ping'), String(PINGS));
  add(samples, PING_P50, subject.name, p50);
  add(samples, PING_P99, subject.name, p99);

  await sleep(QUIET_MS);
  const before = contextSwitches(vmm.pid);
  await sleep(IDLE_MS);
  add(samples, SWITCHES, subject.name, contextSwitches(vmm.pid) - before);
  addMemory(subject, vmm.pid);
  await end(vmm);
}

function measureExec(subject: Subject): void {
  const [byte = 0] = run('byte', '--', ...subject.guest(kernel));
  add(samples, EXEC, subject.name, byte);
}

/** Of all threads but the vCPUs'. */
function contextSwitches(pid = 0): number {
  const tasks = `/proc/${pid}/task`;
  const statuses = readdirSync(tasks)
    .map((task) => readFileSync(join(tasks, task, 'status'), 'utf8'))
    .filter((status) => !/^Name:\tvcpu/.test(status));
  return switchesIn(statuses.join(''));
}

/** Private pages of every mapping but guest RAM, which is known by its size. */
function addMemory(subject: Subject, pid = 0): void {
  const maps = readFileSync(`/proc/${pid}/smaps`, 'utf8').split(/^(?=[0-9a-f]+-[0-9a-f]+ )/m);
  const kib = (map: string, field: string) =>
    [...map.matchAll(new RegExp(`^${field}:\\s+(\\d+) kB`, 'gm'))].reduce(
      (sum, [, count]) => sum + Number(count),
      0,
    );
  const own = maps.filter((map) => kib(map, 'Size') !== GUEST_RAM_KIB);
  const sum = (field: string) => own.reduce((total, map) => total + kib(map, field), 0);
  add(samples, USS, subject.name, (sum('Private_Dirty') + sum('Private_Clean')) / 1024);
  add(samples, RSS, subject.name, sum('Rss') / 1024);
}

try {
  const options = benchOptions(join(root, 'dist/cloud-hypervisor'), process.argv.slice(2));
  writeFileSync(kernel, microGuest());
  for (let round = 0; round < options.rounds; round++)
    for (const subject of options.subjects) {
      if (subject.name !== 'QEMU microvm') await measureService(subject);
      measureExec(subject);
    }
  report('service', samples, GOALS, options.json);
} finally {
  rmSync(directory, { recursive: true });
}
