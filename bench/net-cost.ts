/**
 * What a frame of a busy network card costs: system calls, interrupts, kicks and exits, while a
 * guest without an operating system sends or receives as fast as it can.
 *
 *     npx tsx bench/net-cost.ts [--rounds N] [--json FILE]
 *
 * Runs on this machine, in a network namespace of its own. System calls and exits are counted by
 * `perf`, which needs root; the rest is the guest's own count and /proc.
 */
import { execFileSync, spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { bareGuest } from '../test/support/bare-guest.ts';
import { counted, Flood } from './support/flood.ts';
import { add, type Goal, report, type Samples } from './support/record.ts';
import { benchOptions } from './support/subjects.ts';

/** With the header of Ethernet; the largest that a tap takes. */
const FRAMES = { '1,500 bytes': 1514, '64 KiB': 65535 };
const DIRECTIONS = { received: 1, sent: 2 };

const SYSCALLS = 'system calls';
const INTERRUPTS = 'interrupts';
const KICKS = 'kicks';
const EXITS = 'exits to user space';
const TOTAL = 'all of these';
const RATE = 'microseconds a frame';
const JS_TICKS = 'CPU ticks of the JS thread, in all';

const ETHERNET_BYTES = 14;
const WARM_UP = 2000;
const STEADY_MS = 4000;

const root = join(import.meta.dirname, '..');
const namespace = `bench-${process.pid}`;
const inNamespace = ['nsenter', `--net=/run/netns/${namespace}`];

/** What the guest says after each burst. */
interface Burst {
  frames: number;
  kicks: number;
  interrupts: number;
}

interface Load {
  /** As its measures begin. */
  name: string;
  direction: number;
  bytes: number;
}

const loads: Load[] = Object.entries(DIRECTIONS).flatMap(([verb, direction]) =>
  Object.entries(FRAMES).map(([size, bytes]) => ({ name: `${size}, ${verb}`, direction, bytes })),
);

const GOALS: Goal[] = loads.flatMap(({ name }) => [
  { measure: `${name}: ${TOTAL}`, limit: 1100 },
  { measure: `${name}: ${JS_TICKS}`, limit: 0 },
]);

/** Of the JS thread while the load is steady: its start and its end are told to it and by it. */
async function measureIdleness(flood: Flood, name: string): Promise<void> {
  const js = `${flood.process.pid}`;
  await sleep(STEADY_MS / 5);
  const ticks = flood.ticks(js);
  await sleep((STEADY_MS * 3) / 5);
  add(samples, `${name}: ${JS_TICKS}`, 'ours', flood.ticks(js) - ticks);
}

/** Counts while the load goes on. */
async function measure(flood: Flood, { name, direction, bytes }: Load): Promise<void> {
  const started = performance.now();
  await flood.burst<Burst>(direction, bytes, WARM_UP);
  const frames = Math.ceil((WARM_UP * STEADY_MS) / (performance.now() - started));
  let done: Burst = { frames: 1, kicks: 0, interrupts: 0 };
  let tookMs = 0;
  const events = {
    'raw_syscalls:sys_enter': flood.thread('_net0_qp0'),
    'kvm:kvm_userspace_exit': flood.thread('vcpu0'),
  };
  const [syscalls = Number.NaN, exits = Number.NaN] = await counted(events, async () => {
    const from = performance.now();
    const [said] = await Promise.all([
      flood.burst<Burst>(direction, bytes, frames),
      measureIdleness(flood, name),
    ]);
    done = said;
    tookMs = performance.now() - from;
  });
  const counts = {
    ...{ [SYSCALLS]: syscalls, [INTERRUPTS]: done.interrupts },
    ...{ [KICKS]: done.kicks, [EXITS]: exits },
  };
  const record = (measure: string, value: number) =>
    add(samples, `${name}: ${measure}`, 'ours', value);
  const perThousand = (count: number) => (1000 * count) / done.frames;
  for (const [measure, count] of Object.entries(counts)) record(measure, perThousand(count));
  record(TOTAL, perThousand(Object.values(counts).reduce((sum, count) => sum + count, 0)));
  record(RATE, (1000 * tookMs) / done.frames);
}

async function run(program: string, sender: string, load: Load): Promise<void> {
  const mtu = load.bytes - ETHERNET_BYTES;
  const up = `ip tuntap add mode tap vnet_hdr name tap0 && ip link set tap0 mtu ${mtu} up`;
  execFileSync('ip', ['netns', 'add', namespace]);
  try {
    execFileSync('ip', ['netns', 'exec', namespace, 'sh', '-c', up]);
    const flood = await Flood.start([
      ...[...inNamespace, program, '--kernel', bareGuest('net-flood'), '--memory', 'size=64M'],
      ...['--serial', 'tty', '--console', 'off', '--net', 'tap=tap0'],
    ]);
    const [command = '', ...args] = [...inNamespace, sender, 'tap0', `${load.bytes}`];
    const frames =
      load.direction === DIRECTIONS.received
        ? spawn(command, args, { stdio: 'inherit' })
        : undefined;
    await sleep(100);
    await measure(flood, load);
    if (frames) {
      const ended = once(frames, 'exit');
      frames.kill('SIGKILL');
      await ended;
    }
    await flood.end();
  } finally {
    execFileSync('ip', ['netns', 'del', namespace]);
  }
}

const samples: Samples = new Map();
const directory = mkdtempSync(join(tmpdir(), 'net-cost-'));
try {
  const program = join(root, 'dist/cloud-hypervisor');
  const { rounds, json } = benchOptions(program, process.argv.slice(2));
  const sender = join(directory, 'frame-flood');
  const source = join(import.meta.dirname, 'support/frame-flood.c');
  execFileSync('gcc', ['-O2', '-Wall', '-Wextra', '-Werror', source, '-o', sender]);
  for (let round = 0; round < rounds; round++)
    for (const load of loads) await run(program, sender, load);
  console.log('For 1,000 frames where nothing else is said');
  report('net-cost', samples, GOALS, json);
} finally {
  rmSync(directory, { recursive: true });
}
