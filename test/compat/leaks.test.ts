/** A process that made and ended many VMs holds as much as one that made none. */
import { execFileSync } from 'node:child_process';
import { readdirSync, readFileSync, readlinkSync, writeFileSync } from 'node:fs';
import { connect } from 'node:net';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { buildFdClient } from '../unit/api/support/send-fds.ts';
import { ticksOfASecond } from './support/cpu-time.ts';
import { guestConfig, type Habit } from './support/guests.ts';
import { VmmProcess } from './support/vmm-process.ts';

const WARM_UP_ROUNDS = 10;
const ROUNDS = 100;

const PING = 'GET /api/v1/vmm.ping HTTP/1.1\r\n\r\n';

let vmm: VmmProcess;

beforeAll(async () => {
  vmm = await VmmProcess.start();
  writeFileSync(join(vmm.folder, 'disk'), new Uint8Array(4096));
  // A second after its start a process gives back what that took: from then on nothing changes.
  await new Promise((resolve) => setTimeout(resolve, 1500));
});

afterAll(() => vmm[Symbol.asyncDispose]());

/** What the process holds, by kind; V8 maps and unmaps its own heap as it likes. */
function holdings() {
  const proc = `/proc/${vmm.pid}`;
  const fds = readdirSync(`${proc}/fd`).flatMap((fd) => linkOf(`${proc}/fd/${fd}`));
  const maps = readFileSync(`${proc}/maps`, 'utf8').trim().split('\n');
  const named = maps.map((line) => line.split(/\s+/).slice(5).join(' ')).filter(Boolean);
  return {
    fds: count(fds),
    sockets: fds.filter((target) => target === 'socket').length,
    threads: count(readdirSync(`${proc}/task`).map((tid) => commOf(`${proc}/task/${tid}/comm`))),
    files: count(named),
    guestRam: maps.filter((line) => sizeBytes(line) >= GUEST_RAM_BYTES).length,
  };
}

/** What it holds once that no longer changes: sockets and KVM's fds close in the background. */
async function settled() {
  for (let last = ''; ; ) {
    const now = holdings();
    if (JSON.stringify(now) === last) return now;
    last = JSON.stringify(now);
    await new Promise((resolve) => setTimeout(resolve, 200));
  }
}

const GUEST_RAM_BYTES = 64 << 20;

/** Of one line of /proc/PID/maps. */
function sizeBytes(line: string): number {
  const [start = '0', end = '0'] = line.split(' ', 1)[0]?.split('-') ?? [];
  return Number(BigInt(`0x${end}`) - BigInt(`0x${start}`));
}

/** The kind of what an fd is open for, without inode numbers; nothing if it was closed since. */
function linkOf(path: string): string[] {
  try {
    return [readlinkSync(path).replace(/:.*/, '')];
  } catch {
    return [];
  }
}

function commOf(path: string): string {
  try {
    return readFileSync(path, 'utf8').trim();
  } catch {
    return '';
  }
}

function count(names: readonly string[]): Record<string, number> {
  const counts: Record<string, number> = {};
  for (const name of [...names].sort()) counts[name] = (counts[name] ?? 0) + 1;
  return counts;
}

async function rounds(times: number, verbs: readonly string[], config: object): Promise<void> {
  for (let round = 0; round < times; round++)
    for (const verb of verbs) {
      const { status } = await vmm.put(verb, verb === 'vm.create' ? config : undefined);
      expect(status).toBeGreaterThanOrEqual(200);
    }
}

const PLAIN = ['vm.create', 'vm.boot', 'vm.delete'];

test.each<[string, readonly string[], Habit, object]>([
  ['create, boot, delete', PLAIN, 'a guest that prints X and halts', {}],
  [
    'the same with shared RAM and two vCPUs',
    PLAIN,
    'a guest in a tight loop with interrupts off',
    { memory: { size: GUEST_RAM_BYTES, shared: true }, cpus: { boot_vcpus: 2, max_vcpus: 2 } },
  ],
  [
    'every verb',
    [
      ...['vm.create', 'vm.boot', 'vm.pause', 'vm.resume', 'vm.reboot', 'vm.pause', 'vm.reboot'],
      ...['vm.shutdown', 'vm.boot', 'vm.delete'],
    ],
    'a guest in a storm of exits to the clock',
    { disks: [{ path: 'disk' }] },
  ],
  [
    'boots that fail',
    PLAIN,
    'a guest that prints X and halts',
    // The second finds it locked.
    { disks: [{ path: 'disk' }, { path: './disk' }] },
  ],
])('after 100 rounds of %s nothing more is held', async (_name, verbs, habit, part) => {
  const config = { ...guestConfig(vmm.folder, habit), ...part };
  await rounds(WARM_UP_ROUNDS, verbs, config);
  const before = await settled();

  await rounds(ROUNDS, verbs, config);

  expect(await settled()).toEqual(before);
});

test('after 100 clients that come and go, and 100 bad requests, no socket is left', async () => {
  const before = await settled();

  for (let round = 0; round < ROUNDS; round++) {
    await vmm.raw('PUT /api/v1/vm.create HTTP/1.1\r\nContent-Length: 9\r\n\r\n{');
    await vmm.put('vm.create', '{"payload":');
  }

  expect(await settled()).toEqual(before);
});

test('after 100 clients that sent descriptors nobody asked for, none is left', async () => {
  const before = await settled();
  const send = buildFdClient(vmm.folder);
  const requests = ['GET /api/v1/vmm.ping', 'PUT /api/v1/vm.boot', 'GET /nowhere', 'G@T /'];

  for (let round = 0; round < ROUNDS; round++) {
    const request = `${requests[round % requests.length]} HTTP/1.1\r\n\r\n`;
    const client = send(vmm.socket, '/dev/null', [[request.slice(0, 5 + (round % 60)), 100]]);
    expect(await client.answer()).not.toContain(' 500 ');
  }

  expect(await settled()).toEqual(before);
});

test('without descriptors left, a client waits at no cost and a request with some is refused', async () => {
  const send = buildFdClient(vmm.folder);
  const limit = (count: number) =>
    execFileSync('prlimit', [`--pid=${vmm.pid}`, `--nofile=${count}:`]);
  const first = connect(vmm.socket);
  await expect.poll(() => holdings().sockets).toBeGreaterThan(1);

  limit(3);
  const waiting = vmm.get('vmm.ping');
  expect(await ticksOfASecond(vmm.pid)).toBeLessThan(5);
  limit(1024);
  expect(await waiting).toMatchObject({ status: 200 });

  limit(readdirSync(`/proc/${vmm.pid}/fd`).length + 20);
  const answer = await send(vmm.socket, '/dev/null', [[PING, 100]]).answer();
  limit(1024);
  expect(answer).toContain('File descriptors could not be received');
  first.destroy();
});
