/**
 * What a request of a busy disk costs: system calls, interrupts, exits and context switches, while
 * a guest without an operating system keeps 64 requests in flight.
 *
 *     npx tsx bench/block-cost.ts [--rounds N] [--json FILE]
 *
 * System calls and exits are counted by `perf`, which needs root; the rest is the guest's own count
 * and /proc.
 */
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { setTimeout as sleep } from 'node:timers/promises';
import { bareGuest } from '../test/support/bare-guest.ts';
import { switchesIn, ticksIn } from './support/proc.ts';
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
const PERF_READY_MS = 300;

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

class Flood {
  readonly process: ChildProcess;
  readonly #lines: AsyncIterator<string>;

  constructor(program: string) {
    this.process = spawn(
      program,
      [
        ...['--kernel', bareGuest('block-flood'), '--memory', 'size=64M'],
        ...['--serial', 'tty', '--console', 'off'],
        ...['--disk', `path=${disk},queue_size=256,image_type=raw`],
      ],
      { env: { PATH: '/usr/bin:/bin' }, stdio: ['pipe', 'pipe', 'inherit'] },
    );
    const lines = createInterface({ input: this.process.stdout ?? process.stdin });
    this.#lines = lines[Symbol.asyncIterator]();
  }

  async line(): Promise<string> {
    const { value, done } = await this.#lines.next();
    if (done) throw new Error('The guest ended');
    return value;
  }

  async burst(requests: number): Promise<Burst> {
    this.process.stdin?.write(`${requests}\n`);
    const burst = JSON.parse(await this.line()) as Burst;
    if (burst.failed > 0) throw new Error(`${burst.failed} requests failed`);
    return burst;
  }

  async end(): Promise<void> {
    const ended = once(this.process, 'exit');
    this.process.stdin?.write('0\n');
    await ended;
  }

  /** The thread of that name. */
  thread(name: string): string {
    const tasks = `/proc/${this.process.pid}/task`;
    const found = readdirSync(tasks).find(
      (id) => readFileSync(join(tasks, id, 'comm'), 'utf8').trim() === name,
    );
    if (found === undefined) throw new Error(`There is no thread ${name}`);
    return found;
  }

  switches(thread: string): number {
    return switchesIn(readFileSync(`/proc/${this.process.pid}/task/${thread}/status`, 'utf8'));
  }

  ticks(thread: string): number {
    return ticksIn(readFileSync(`/proc/${this.process.pid}/task/${thread}/stat`, 'latin1'));
  }
}

/** Counts an event of a thread while `work` runs. */
async function counted(
  events: Readonly<Record<string, string>>,
  work: () => Promise<void>,
): Promise<number[]> {
  const counters = Object.entries(events).map(([event, thread], index) => {
    const output = join(directory, `perf-${index}`);
    const perf = spawn('perf', ['stat', '-x,', '-e', event, '-t', thread, '-o', output], {
      stdio: ['ignore', 'ignore', 'inherit'],
    });
    return { perf, output };
  });
  await sleep(PERF_READY_MS);
  await work();
  return Promise.all(
    counters.map(async ({ perf, output }) => {
      const ended = once(perf, 'exit');
      perf.kill('SIGINT');
      await ended;
      const line = readFileSync(output, 'utf8')
        .split('\n')
        .find((text) => /^\d/.test(text));
      return Number(line?.split(',')[0] ?? Number.NaN);
    }),
  );
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
  const flood = new Flood(program);
  while ((await flood.line()) !== 'ready');
  const started = performance.now();
  await flood.burst(WARM_UP);
  const requests = Math.ceil((WARM_UP * STEADY_MS) / (performance.now() - started));
  const [engine, vcpu, js] = [
    flood.thread('_disk0_q0'),
    flood.thread('vcpu0'),
    `${flood.process.pid}`,
  ];
  const switchesBefore = flood.switches(engine);
  let burst: Burst = { requests: 1, failed: 0, kicks: 0, interrupts: 0 };
  let tookMs = 0;
  const events = { 'raw_syscalls:sys_enter': engine, 'kvm:kvm_userspace_exit': vcpu };
  const [syscalls = Number.NaN, exits = Number.NaN] = await counted(events, async () => {
    const from = performance.now();
    const [, done] = await Promise.all([
      measureIdleness(flood, js, samples),
      flood.burst(requests),
    ]);
    burst = done;
    tookMs = performance.now() - from;
  });
  const perThousand = (count: number) => (count * 1000) / burst.requests;
  add(samples, SYSCALLS, 'ours', perThousand(syscalls));
  add(samples, INTERRUPTS, 'ours', perThousand(burst.interrupts));
  add(samples, KICKS, 'ours', perThousand(burst.kicks));
  add(samples, EXITS, 'ours', perThousand(exits));
  add(samples, SWITCHES, 'ours', perThousand(flood.switches(engine) - switchesBefore));
  add(samples, RATE, 'ours', (tookMs * 1000) / burst.requests);
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
