/**
 * The API as its clients use it: how soon a VM runs that is made as Kata makes one, how long
 * `vm.info` takes, and whether many requests or connections leave anything behind.
 *
 *     npx tsx bench/clients.ts [--peer NAME=PATH]... [--rounds N] [--json FILE]
 */
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import {
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  truncateSync,
  writeFileSync,
} from 'node:fs';
import { connect, type Socket } from 'node:net';
import { tmpdir, totalmem } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { microGuest } from './support/micro-guest.ts';
import { buildProbe } from './support/probe.ts';
import { add, type Goal, report, type Samples } from './support/record.ts';
import { benchOptions, type Subject } from './support/subjects.ts';

const STARTED = 'exec, create, two infos, boot, ms';
const INFO = 'vm.info of an idle VM, p99, ms';
const INFO_BUSY = 'vm.info while disks and RAM are plugged, p99, ms';
const REQUESTS = 10_000;
const CONNECTIONS = 3000;
const OF_REQUESTS = 'USS after 10,000 requests, MiB more';
const OF_CONNECTIONS = 'USS after 3,000 connections, MiB more';
const FDS = 'fds after both, more';

const GOALS: Goal[] = [
  { measure: STARTED, limit: 100 },
  { measure: INFO, limit: 5 },
  { measure: INFO_BUSY, limit: 20 },
  { measure: OF_REQUESTS, limit: 1 },
  { measure: OF_CONNECTIONS, limit: 1 },
  { measure: FDS, limit: 0 },
];

const CONNECT_RETRY_MS = 0.2;
const SETTLED_MS = 3000;
const WARM_UP = 2000;

const root = join(import.meta.dirname, '..');
const directory = mkdtempSync(join(tmpdir(), 'clients-'));
const socket = join(directory, 'socket');
const samples: Samples = new Map();
const run = buildProbe(directory);

const text = (method: string, verb: string, body = ''): string => {
  const length = body ? `Content-Length: ${Buffer.byteLength(body)}\r\n` : '';
  return `${method} /api/v1/${verb} HTTP/1.1\r\nHost: localhost\r\n${length}\r\n${body}`;
};

const INFO_REQUEST = text('GET', 'vm.info');

/** RAM comes in such steps, eight times at most. */
const SECTION_BYTES = 128 << 20;
const RAM_BYTES = SECTION_BYTES;
const PLUGGED = 8;

/**
 * A root file system as persistent memory, a vsock, a network card, and room for as much RAM as the
 * host has, as Kata has them.
 */
function writeFiles(): string {
  const [kernel, image] = [join(directory, 'kernel'), join(directory, 'root.img')];
  writeFileSync(kernel, microGuest());
  writeFileSync(image, '');
  truncateSync(image, 128 << 20);
  return JSON.stringify({
    payload: { kernel },
    memory: {
      size: RAM_BYTES,
      hotplug_size: Math.floor(totalmem() / SECTION_BYTES) * SECTION_BYTES,
    },
    net: [{ mac: '02:00:00:00:00:01' }],
    pmem: [{ file: image, discard_writes: true }],
    vsock: { cid: 3, socket: join(directory, 'vsock') },
    serial: { mode: 'Null' },
    console: { mode: 'Off' },
  });
}

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

async function request(client: Socket, what: string): Promise<void> {
  client.write(what);
  const [answer] = (await once(client, 'data')) as [Buffer];
  if (!answer.toString('latin1').startsWith('HTTP/1.1 20')) throw new Error(`${what}: ${answer}`);
}

/** Private memory in MiB, and open files. */
function held({ pid }: ChildProcess) {
  const rollup = readFileSync(`/proc/${pid}/smaps_rollup`, 'utf8');
  const kib = [...rollup.matchAll(/^Private_(?:Clean|Dirty):\s+(\d+) kB/gm)];
  const uss = kib.reduce((sum, [, count]) => sum + Number(count), 0) / 1024;
  return { uss, fds: readdirSync(`/proc/${pid}/fd`).length };
}

/** A client that asks, as another one plugs. */
async function infoWhilePlugging(plugging: Socket): Promise<number> {
  const asking = await open();
  const waits: number[] = [];
  let done = false;
  const ask = async () => {
    while (!done) {
      const asked = performance.now();
      await request(asking, INFO_REQUEST);
      waits.push(performance.now() - asked);
    }
  };
  const asked = ask();
  for (let i = 1; i <= PLUGGED; i++) {
    const path = join(directory, `disk${i}`);
    writeFileSync(path, '');
    truncateSync(path, 1 << 20);
    await request(plugging, text('PUT', 'vm.add-disk', JSON.stringify({ path })));
    const desired_ram = RAM_BYTES + i * SECTION_BYTES;
    await request(plugging, text('PUT', 'vm.resize', JSON.stringify({ desired_ram })));
  }
  done = true;
  await asked;
  asking.destroy();
  return waits.sort((a, b) => a - b)[Math.floor(waits.length * 0.99)] ?? 0;
}

async function measure({ name, api }: Subject, config: string): Promise<void> {
  const [file = '', ...args] = api(socket).argv;
  const asked = performance.now();
  const vmm = spawn(file, args, { env: { PATH: '/usr/bin:/bin' }, stdio: 'ignore' });
  const client = await open();
  await request(client, text('PUT', 'vm.create', config));
  for (let i = 0; i < 2; i++) await request(client, INFO_REQUEST);
  await request(client, text('PUT', 'vm.boot'));
  add(samples, STARTED, name, performance.now() - asked);

  await sleep(SETTLED_MS);
  const [, p99 = 0] = run('ping', socket, INFO_REQUEST, String(WARM_UP));
  add(samples, INFO, name, p99);
  await sleep(SETTLED_MS);
  const before = held(vmm);

  run('ping', socket, INFO_REQUEST, String(REQUESTS));
  await sleep(SETTLED_MS);
  add(samples, OF_REQUESTS, name, held(vmm).uss - before.uss);

  for (let i = 0; i < CONNECTIONS; i++) {
    const other = await open();
    await request(other, INFO_REQUEST);
    other.destroy();
  }
  await sleep(SETTLED_MS);
  add(samples, OF_CONNECTIONS, name, held(vmm).uss - before.uss);
  add(samples, FDS, name, held(vmm).fds - before.fds);
  add(samples, INFO_BUSY, name, await infoWhilePlugging(client));

  const ended = once(vmm, 'exit');
  vmm.kill('SIGTERM');
  await ended;
  for (const left of [socket, `${socket}.lock`]) rmSync(left, { force: true });
}

try {
  const options = benchOptions(join(root, 'dist/cloud-hypervisor'), process.argv.slice(2));
  const config = writeFiles();
  const subjects = options.subjects.filter(({ name }) => name !== 'QEMU microvm');
  for (let round = 0; round < options.rounds; round++)
    for (const subject of subjects) await measure(subject, config);
  report('clients', samples, GOALS, options.json);
} finally {
  rmSync(directory, { recursive: true });
}
