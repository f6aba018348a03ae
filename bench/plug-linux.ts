/**
 * Plugging into a Linux guest: from the answer to a client until the guest has the disk or the
 * vCPU, beside QEMU's `device_add` on q35, and how soon clients are answered meanwhile.
 *
 *     npx tsx bench/plug-linux.ts [--peer NAME=PATH]... [--rounds N] [--json FILE]
 *
 * Runs where the end-to-end tests run (test/host). Subjects alternate within each round, each in a
 * guest of its own, which looks for the news all the time. All times are a client's: what it asks
 * for, and what the guest says on its console, come to it by the same way.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import { passOnGuestImages } from '../guest-images/images.ts';
import { Guest } from '../test/e2e/support/guest.ts';
import { ScratchDisk } from '../test/e2e/support/scratch-disk.ts';
import type { Vmm } from '../test/e2e/support/vmm.ts';
import { openHost } from '../test/host/open-host.ts';
import { linuxProgram } from '../test/support/linux-program.ts';
import { again } from './support/again.ts';
import { placeOf } from './support/place.ts';
import { openPlugs, type Plugs, plugArguments } from './support/plug-subjects.ts';
import { add, type Goal, report, type Samples } from './support/record.ts';
import { benchArguments } from './support/subjects.ts';
import { nameOf, vmms } from './support/vmms.ts';

const DISK = 'reply → disk in the guest, ms';
const CPU = 'reply → vCPU online in the guest, ms';
const REPLY = { disk: 'request of a disk → reply, ms', cpu: 'request of a vCPU → reply, ms' };
const INFO = 'vm.info or query-status meanwhile, p99 of a guest, ms';

const GOALS: Goal[] = [
  ...[DISK, CPU].map((measure) => ({ measure, limit: 1, times: 'qemu' })),
  { measure: INFO, limit: 100 },
];

const CYCLES = 4;
/** Those in which clients ask how the VM is, which takes CPU of the guest's. */
const ASKED_CYCLES = 2;
const POLL_MS = 20;
const SEEN_MS_MAX = 60_000;
const CPU_AT = '/sys/devices/system/cpu/cpu1';

const samples: Samples = new Map();
const watch = linuxProgram('bench/guest/plug-watch.c');

/** What each question takes, one after another, until `done` settles. */
async function askUntil(done: Promise<unknown>, plugs: Plugs, infos: number[]): Promise<void> {
  let isDone = false;
  const settle = () => {
    isDone = true;
  };
  done.then(settle, settle);
  for (; !isDone; await sleep(POLL_MS)) {
    const asked = performance.now();
    await plugs.info();
    infos.push(performance.now() - asked);
  }
}

/** @returns milliseconds from request to reply, and from there until the guest has it. */
async function plug(
  guest: Guest,
  path: string,
  work: () => Promise<void>,
  meanwhile: (seen: Promise<unknown>) => Promise<void>,
): Promise<[number, number]> {
  await guest.run(`plug-watch there ${path} &`);
  const seen = guest.waitFor(/watch: there\n/, SEEN_MS_MAX).then(() => performance.now());
  seen.catch(() => {}); // whoever awaits it hears of it
  const asked = performance.now();
  await work();
  const answered = performance.now();
  await meanwhile(seen);
  return [answered - asked, (await seen) - answered];
}

async function unplug(guest: Guest, path: string, work: () => Promise<void>): Promise<void> {
  await guest.run(`plug-watch gone ${path} &`);
  const gone = guest.waitFor(/watch: gone\n/, SEEN_MS_MAX);
  await Promise.all([gone, work()]);
}

async function measure(vmm: Vmm): Promise<void> {
  const subject = nameOf(vmm);
  await using disk = await ScratchDisk.make(64);
  await using guest = await Guest.boot({
    ...{ vmm, cpus: 1, cpusMax: 2, args: plugArguments(vmm, disk.path) },
    programs: { 'plug-watch': watch },
  });
  const plugs = await openPlugs(vmm, guest, disk.path);
  const infos: number[] = [];
  const cycle = async (meanwhile: (seen: Promise<unknown>) => Promise<void>) => {
    const ofDisk = await plug(guest, '/dev/vda', plugs.addDisk, meanwhile);
    await unplug(guest, '/dev/vda', plugs.removeDisk);
    const ofCpu = await plug(guest, `${CPU_AT} ${CPU_AT}/online`, plugs.addCpu, meanwhile);
    await unplug(guest, CPU_AT, plugs.removeCpu);
    return { ofDisk, ofCpu };
  };
  const silently = async () => {};
  await cycle(silently); // it loads code for the first disk, and the first vCPU
  for (let n = 0; n < CYCLES; n++) {
    const { ofDisk, ofCpu } = await cycle(silently);
    add(samples, REPLY.disk, subject, ofDisk[0]);
    add(samples, DISK, subject, ofDisk[1]);
    add(samples, REPLY.cpu, subject, ofCpu[0]);
    add(samples, CPU, subject, ofCpu[1]);
  }
  for (let n = 0; n < ASKED_CYCLES; n++) await cycle((seen) => askUntil(seen, plugs, infos));
  infos.sort((a, b) => a - b);
  add(samples, INFO, subject, infos[Math.floor(infos.length * 0.99)] ?? Number.NaN);
  plugs.close();
}

const { peers, rounds, json } = benchArguments(process.argv.slice(2));
await passOnGuestImages();
await using host = await openHost();
for (let round = 0; round < rounds; round++)
  for (const vmm of vmms(peers)) await again(nameOf(vmm), () => measure(vmm));
report('plug-linux', samples, GOALS, json, await placeOf(host));
