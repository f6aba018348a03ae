/**
 * The cache of things that take long to make: kernels, disk images, a QEMU of its own.
 *
 * An entry is a directory `NAME-KEY`, where KEY is a hash of everything that it was made from. It
 * appears whole or not at all, so two test runs, or a run that was cut short, cannot spoil it.
 */
import { type ChildProcess, spawn } from 'node:child_process';
import { createHash } from 'node:crypto';
import { once } from 'node:events';
import { mkdir, readdir, rename, rm, stat, utimes } from 'node:fs/promises';
import { homedir } from 'node:os';
import { join } from 'node:path';

/** Entries of a name that nobody used for this long are removed when a new one is made. */
const UNUSED_MS_MAX = 7 * 24 * 3600 * 1000;

export function cacheDir(): string {
  const base = process.env['XDG_CACHE_HOME'] || join(homedir(), '.cache');
  return join(base, 'cloud-hypervisor-node');
}

/** A short name for `parts`; the same parts give the same name on every machine. */
export function contentKey(...parts: (string | Uint8Array)[]): string {
  const hash = createHash('sha256');
  for (const part of parts) {
    hash.update(`${part.length}:`); // so that ('ab', 'c') and ('a', 'bc') differ
    hash.update(part);
  }
  return hash.digest('hex').slice(0, 16);
}

/**
 * The entry `name` for `key`, made by `build` if there is none.
 *
 * @param build fills the empty directory that it is given; slow, so it may print progress.
 * @returns the entry's path.
 */
export async function cached(
  name: string,
  key: string,
  build: (directory: string) => Promise<void>,
): Promise<string> {
  const entry = join(cacheDir(), `${name}-${key}`);
  if (await used(entry)) return entry;
  await using _lock = await lock(`${name}-${key}`);
  if (await used(entry)) return entry; // made while we waited for the lock
  const draft = join(cacheDir(), `.draft-${name}-${key}`);
  await rm(draft, { recursive: true, force: true }); // of a run that was cut short
  await mkdir(draft, { recursive: true });
  await build(draft);
  await rename(draft, entry);
  await removeUnused(name);
  return entry;
}

/** Marks an entry as in use; false if it does not exist. */
async function used(entry: string): Promise<boolean> {
  const now = new Date();
  return utimes(entry, now, now).then(
    () => true,
    () => false,
  );
}

async function removeUnused(name: string): Promise<void> {
  for (const file of await readdir(cacheDir())) {
    if (!file.startsWith(`${name}-`)) continue;
    const path = join(cacheDir(), file);
    const age = Date.now() - (await stat(path)).mtimeMs;
    if (age > UNUSED_MS_MAX) await rm(path, { recursive: true, force: true });
  }
}

/**
 * Waits for the lock file of `name`, for as long as it takes.
 *
 * The lock is the kernel's, held by a child that ends when our end of its pipe does; so a killed
 * process never leaves a stale lock behind.
 */
export async function lock(name: string): Promise<AsyncDisposable> {
  const directory = join(cacheDir(), 'locks');
  await mkdir(directory, { recursive: true });
  const holder = spawn('flock', [join(directory, name), 'sh', '-c', 'echo; exec cat'], {
    stdio: ['pipe', 'pipe', 'inherit'],
  });
  await Promise.race([once(holder.stdout, 'data'), rejectOnExit(holder, name)]);
  return {
    async [Symbol.asyncDispose]() {
      holder.stdin.end();
      if (holder.exitCode === null) await once(holder, 'exit');
    },
  };
}

async function rejectOnExit(holder: ChildProcess, name: string): Promise<never> {
  const [code] = await once(holder, 'exit'); // throws if flock could not be started
  throw new Error(`Cannot lock ${name}: flock ended with ${code}; it is of package util-linux`);
}
