/**
 * Plugging: how soon clients are answered while devices come and go, in a guest of test/guests that
 * drives the disk it gets and lets go of what it is asked for.
 *
 *     npx tsx bench/hotplug.ts [--peer NAME=PATH]... [--rounds N] [--json FILE]
 *
 * As root, for the cards are on taps. Subjects alternate within each round.
 */
import { readFileSync, truncateSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { LAUNCHER, VmmProcess } from '../test/compat/support/vmm-process.ts';
import { bareGuest } from '../test/support/bare-guest.ts';
import { add, type Goal, report, type Samples } from './support/record.ts';
import { benchArguments } from './support/subjects.ts';

const ADD = { disk: 'vm.add-disk, ms', net: 'vm.add-net, ms' } as const;
const REMOVE = 'vm.remove-device, ms';
const INFO = {
  disk: 'vm.info while a disk comes and goes, p99 of a round, ms',
  net: 'vm.info while a card does, p99 of a round, ms',
} as const;
const KINDS = ['disk', 'net'] as const;
type Kind = (typeof KINDS)[number];

const GOALS: Goal[] = [...Object.values(ADD), REMOVE, ...Object.values(INFO)].map((measure) => ({
  measure,
  limit: 5,
}));

const WARM_UP_CYCLES = 10;
const CYCLES = 30;
const DISK_BYTES = 1 << 20;
const POLL_MS = 2;

const samples: Samples = new Map();

async function timed(work: () => Promise<{ status: number | undefined }>): Promise<number> {
  const asked = performance.now();
  const { status } = await work();
  if (status !== 200 && status !== 204) throw new Error(`Answered with ${status}`);
  return performance.now() - asked;
}

/** A VMM whose guest is ready. */
async function boot(launcher: string): Promise<VmmProcess> {
  const vmm = await VmmProcess.start({ launcher });
  const serial = join(vmm.folder, 'serial');
  const disk = join(vmm.folder, 'disk');
  writeFileSync(disk, '');
  truncateSync(disk, DISK_BYTES);
  const config = {
    payload: { kernel: bareGuest('plug') },
    cpus: { boot_vcpus: 1, max_vcpus: 1, max_phys_bits: 36 },
    memory: { size: 64 << 20 },
    serial: { mode: 'File', file: serial },
    console: { mode: 'Off' },
  };
  await timed(() => vmm.put('vm.create', config));
  await timed(() => vmm.put('vm.boot'));
  while (!readFileSync(serial, 'utf8').includes('ready')) await sleep(POLL_MS);
  return vmm;
}

/** One device comes and goes. @returns what each `vm.info` took that was asked for meanwhile. */
async function cycle(
  vmm: VmmProcess,
  kind: Kind,
  count: (measure: string, ms: number) => void,
): Promise<number[]> {
  const body = kind === 'disk' ? { path: join(vmm.folder, 'disk') } : {};
  count(ADD[kind], await timed(() => vmm.put(`vm.add-${kind}`, { ...body, id: 'plugged' })));
  count(REMOVE, await timed(() => vmm.put('vm.remove-device', { id: 'plugged' })));
  const infos: number[] = [];
  for (let isThere = true; isThere; await sleep(POLL_MS)) {
    infos.push(
      await timed(async () => {
        const answer = await vmm.get('vm.info');
        isThere = 'plugged' in (answer.body as { device_tree: object }).device_tree;
        return answer;
      }),
    );
  }
  return infos;
}

async function measure(name: string, launcher: string): Promise<void> {
  await using vmm = await boot(launcher);
  const infos: Record<Kind, number[]> = { disk: [], net: [] };
  for (let n = 0; n < WARM_UP_CYCLES + CYCLES; n++)
    for (const kind of KINDS) {
      const isCounted = n >= WARM_UP_CYCLES;
      const count = (what: string, ms: number) => isCounted && add(samples, what, name, ms);
      const asked = await cycle(vmm, kind, count);
      if (isCounted) infos[kind].push(...asked);
    }
  for (const kind of KINDS) add(samples, INFO[kind], name, p99(infos[kind]));
}

function p99(values: number[]): number {
  values.sort((a, b) => a - b);
  return values[Math.floor(values.length * 0.99)] ?? Number.NaN;
}

const { peers, rounds, json } = benchArguments(process.argv.slice(2));
for (let round = 0; round < rounds; round++)
  for (const { name, path } of [{ name: 'ours', path: LAUNCHER }, ...peers])
    await measure(name, path);
report('hotplug', samples, GOALS, json);
