/**
 * What a request of a busy disk costs: system calls, interrupts, exits and context switches, while
 * a guest without an operating system keeps 64 requests in flight.
 *
 *     npx tsx bench/block-cost.ts [--rounds N] [--json FILE]
 *
 * System calls and exits are counted by `perf`, which needs root; the rest is the guest's own count
 * and /proc.
 */
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { bareGuest } from '../test/support/bare-guest.ts';
import { counted, Flood } from './support/flood.ts';
import { add, type Goal, report, type Samples } from './support/record.ts';
import { benchOptions } from './support/subjects.ts';

const SYSCALLS = 'system calls of the disk thread';
const SWITCHES = 'context switches of the disk thread';
const INTERRUPTS = 'interrupts';
const KICKS = 'kicks';
const EXITS = 'exits to user space';
const JS_SWITCHES = 'context switches of the JS thread, in all';
const JS_TICKS = 'CPU ticks of the JS thread, in all';
const RATE = 'microseconds a request';

const GOALS: Goal[] = [
  { measure: SYSCALLS, limit: 100 },
  { measure: INTERRUPTS, limit: 250 },
  { measure: KICKS, limit: 100 },
  { measure: EXITS, limit: 100 },
  { measure: JS_SWITCHES, limit: 0 },
  { measure: JS_TICKS, limit: 0 },
];

const DISK_BYTES = 64 << 20;
const WARM_UP = 20_000;
const STEADY_MS = 5000;

const root = join(import.meta.dirname, '..');
const directory = mkdtempSync(join(tmpdir(), 'block-cost-'));
const disk = join(directory, 'disk.img');

/** What the guest says after each burst. */
interface Burst {
  requests: number;
  failed: number;
  kicks: number;
  interrupts: number;
}

async function burst(flood: Flood, requests: number): Promise<Burst> {
  const done = await flood.burst<Burst>(requests);
  if (done.failed > 0) throw new Error(`${done.failed} requests failed`);
  return done;
}

/** Of the JS thread while the load is steady: its start and its end are told to it and by it. */
async function measureIdleness(flood: Flood, js: string, samples: Samples): Promise<void> {
  await sleep(STEADY_MS / 5);
  const [switches, ticks] = [flood.switches(js), flood.ticks(js)];
  await sleep((STEADY_MS * 3) / 5);
  add(samples, JS_SWITCHES, 'ours', flood.switches(js) - switches);
  add(samples, JS_TICKS, 'ours', flood.ticks(js) - ticks);
}

async function measure(program: string, samples: Samples): Promise<void> {
  const flood = await Flood.start([
    ...[program, '--kernel', bareGuest('block-flood'), '--memory', 'size=64M'],
    ...['--serial', 'tty', '--console', 'off'],
    ...['--disk', `path=${disk},queue_size=256,image_type=raw`],
  ]);
  const started = performance.now();
  await burst(flood, WARM_UP);
  const requests = Math.ceil((WARM_UP * STEADY_MS) / (performance.now() - started));
  const [engine, vcpu, js] = [
    flood.thread('_disk0_q0'),
    flood.thread('vcpu0'),
    `${flood.process.pid}`,
  ];
  const switchesBefore = flood.switches(engine);
  let done: Burst = { requests: 1, failed: 0, kicks: 0, interrupts: 0 };
  let tookMs = 0;
  const events = { 'raw_syscalls:sys_enter': engine, 'kvm:kvm_userspace_exit': vcpu };
  const [syscalls = Number.NaN, exits = Number.NaN] = await counted(events, async () => {
    const from = performance.now();
    const [, said] = await Promise.all([
      measureIdleness(flood, js, samples),
      burst(flood, requests),
    ]);
    done = said;
    tookMs = performance.now() - from;
  });
  const perThousand = (count: number) => (count * 1000) / done.requests;
  add(samples, SYSCALLS, 'ours', perThousand(syscalls));
  add(samples, INTERRUPTS, 'ours', perThousand(done.interrupts));
  add(samples, KICKS, 'ours', perThousand(done.kicks));
  add(samples, EXITS, 'ours', perThousand(exits));
  add(samples, SWITCHES, 'ours', perThousand(flood.switches(engine) - switchesBefore));
  add(samples, RATE, 'ours', (tookMs * 1000) / done.requests);
  await flood.end();
}

const samples: Samples = new Map();
try {
  const program = join(root, 'dist/cloud-hypervisor');
  const { rounds, json } = benchOptions(program, process.argv.slice(2));
  writeFileSync(disk, Buffer.alloc(DISK_BYTES, 0x5a));
  for (let round = 0; round < rounds; round++) await measure(program, samples);
  console.log('For 1,000 requests where nothing else is said');
  report('block-cost', samples, GOALS, json);
} finally {
  rmSync(directory, { recursive: true });
}
