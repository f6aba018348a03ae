/** Picks the host that the tests run on, and says which and why. */
import { rm } from 'node:fs/promises';
import { resolve } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { ping } from './agent-client.ts';
import { EmulatedHost } from './emulated-host.ts';
import type { MachineOptions } from './emulated-machine.ts';
import { HostLostError, type KvmHost } from './host.ts';
import { hasHardwareVirtualisation, LocalHost } from './local-host.ts';
import { hostImages } from './prepare.ts';
import {
  developerStatePath,
  ownStatePath,
  readState,
  statePath,
  useStatePath,
} from './state-file.ts';
import { HostSupervisor } from './supervisor.ts';

/** Longest that a host which is being started again keeps a test waiting. */
const UP_TIMEOUT_MS = 180_000;
const PING_TIMEOUT_MS = 30_000;

/**
 * A host to run on: this machine if it can, else the emulated one that is up, else a new one that
 * ends with the returned object.
 *
 * After a HostLostError, dispose of the old object and call this again: if the host is kept by
 * `npm run host` or by the test run, it comes back by itself.
 */
export async function openHost(): Promise<KvmHost> {
  if (await hasHardwareVirtualisation()) {
    say('this machine: it has hardware virtualisation');
    return new LocalHost();
  }
  const attached = await attach(statePath());
  if (attached) {
    if (statePath() === developerStatePath()) say('the emulated host that `npm run host` keeps up');
    return attached;
  }
  const path = ownStatePath();
  useStatePath(path); // attach() of this process finds it there, also after a new start
  const supervisor = await startHost(path);
  return attachTo(path, () => supervisor.close());
}

/** Starts an emulated host, kept until the returned object is closed or this process ends. */
export async function startHost(
  path: string,
  options: Partial<MachineOptions> = {},
): Promise<HostSupervisor> {
  const images = await hostImages();
  const why = 'no vmx or svm in /proc/cpuinfo, or no /dev/kvm';
  say(`a host emulated by QEMU ${images.qemu.version}: ${why}`);
  const name = `test-results/host-console-${process.pid}.log`; // several runs may go on at once
  const consolePath = resolve(options.consolePath ?? name);
  await rm(consolePath, { force: true });
  return HostSupervisor.start({ ...options, images, consolePath }, path);
}

/** The host that the state file tells of, once it is up; undefined if nobody keeps one there. */
export async function attach(path: string): Promise<KvmHost | undefined> {
  return (await readState(path)) && attachTo(path, async () => {});
}

async function attachTo(path: string, close: () => Promise<void>): Promise<KvmHost> {
  const deadline = Date.now() + UP_TIMEOUT_MS;
  while (Date.now() < deadline) {
    const state = await readState(path);
    if (!state) throw new HostLostError(`whoever kept it is gone (${path})`);
    const { status, port, id, consolePath, reason } = state;
    if (status === 'failed') throw new Error(`${reason}; its console is in ${consolePath}`);
    const answer = status === 'up' && (await ping(port, PING_TIMEOUT_MS).catch(() => undefined));
    if (answer === id) return new EmulatedHost({ port, id, close });
    await sleep(200);
  }
  throw new HostLostError(`not up after ${UP_TIMEOUT_MS} ms`);
}

function say(what: string): void {
  console.log(`[host] Tests run on ${what}`);
}
