import { type ChildProcess, spawn } from 'node:child_process';
import {
  chmodSync,
  cpSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  rmSync,
  statSync,
  truncateSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { exchange } from './support/http.ts';

const PING = 'GET /api/v1/vmm.ping HTTP/1.1\r\n\r\n';

let directory: string;
let dist: string;
let caches: string;
let child: ChildProcess | undefined;

beforeEach(() => {
  directory = mkdtempSync(join(tmpdir(), 'loader-'));
  dist = join(directory, 'elsewhere');
  caches = join(directory, 'home/.cache/cloud-hypervisor');
  mkdirSync(join(directory, 'home'));
  cpSync(join(import.meta.dirname, '../../dist'), dist, { recursive: true });
});

afterEach(() => {
  child?.kill('SIGKILL');
  rmSync(directory, { recursive: true });
});

/** Starts the copy; resolves when it has answered. */
async function start(): Promise<void> {
  child?.kill('SIGKILL');
  const socket = join(directory, `${process.hrtime.bigint()}`);
  const env = { HOME: join(directory, 'home') };
  child = spawn(join(dist, 'cloud-hypervisor'), ['--api-socket', socket], { env });
  await expect
    .poll(() => exchange(socket, PING).catch(() => ''), { timeout: 9000 })
    .toContain('"pid"');
}

/** The user's own code caches, with what tells whether they were written again. */
function userCaches(): { name: string; inode: number; mode: number }[] {
  try {
    return readdirSync(caches).map((name) => {
      const { ino, mode } = statSync(join(caches, name));
      return { name, inode: ino, mode: mode & 0o777 };
    });
  } catch {
    return [];
  }
}

/** Longer than a VMM waits before it writes a cache. */
const settled = () => new Promise((resolve) => setTimeout(resolve, 2500));

test('dist runs wherever it is copied, and needs nothing of the user', async () => {
  await start();
  await settled();

  expect(userCaches()).toEqual([]);
});

test('a code cache that node refuses is made anew for the user, once, and trusted while it is ours', async () => {
  truncateSync(join(dist, 'vmm.cache'), 1000);

  await start();
  await expect.poll(userCaches, { timeout: 10_000 }).toHaveLength(1);
  const [made] = userCaches();
  expect(made?.mode).toBe(0o600);

  await start();
  await settled();
  expect(userCaches()).toEqual([made]);

  chmodSync(join(caches, made?.name ?? ''), 0o666);
  await start();
  await settled();
  expect(userCaches()).toEqual([{ ...made, inode: expect.any(Number) }]);
});
