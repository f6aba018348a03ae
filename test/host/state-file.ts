/** How those who keep an emulated host tell those who use it where it is: a small JSON file. */
import { readFile, rename, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { cacheDir } from '../../guest-images/cache.ts';

export interface HostState {
  /** `starting` also while it starts again; `failed` for good. */
  status: 'starting' | 'up' | 'failed';
  /** Of the process that keeps the host. */
  ownerPid: number;
  /** The agent's TCP port on 127.0.0.1. */
  port: number;
  /** Of this start of the host; its agent answers with the same. */
  id: string;
  /** Path of what the host's kernel and init print. */
  consolePath: string;
  /** Why it failed. */
  reason?: string;
}

/** Names the state file of the test run, for the processes in it. */
const VARIABLE = 'KVM_HOST_STATE';

/** The state file of `npm run host`. */
export const developerStatePath = () => join(cacheDir(), 'host.json');

/** The state file of a host that this process keeps for itself and its children. */
export const ownStatePath = () => join(tmpdir(), `kvm-host-${process.pid}.json`);

/** The state file to look for: that of the run if there is one. */
export const statePath = () => process.env[VARIABLE] ?? developerStatePath();

export function useStatePath(path: string): void {
  process.env[VARIABLE] = path;
}

/** @returns undefined if there is none, or whoever wrote it is gone. */
export async function readState(path: string): Promise<HostState | undefined> {
  const text = await readFile(path, 'utf8').catch(() => undefined);
  if (text === undefined) return undefined;
  const state: HostState = JSON.parse(text);
  return isAlive(state.ownerPid) ? state : undefined;
}

export async function writeState(path: string, state: HostState): Promise<void> {
  const draft = `${path}.${process.pid}`;
  await writeFile(draft, JSON.stringify(state), { mode: 0o600 });
  await rename(draft, path);
}

export async function removeState(path: string): Promise<void> {
  await rm(path, { force: true });
}

function isAlive(pid: number): boolean {
  try {
    return process.kill(pid, 0);
  } catch {
    return false;
  }
}
