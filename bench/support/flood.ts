/** A guest without an operating system that loads a device when told to, and what that costs. */
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { setTimeout as sleep } from 'node:timers/promises';
import { switchesIn, ticksIn } from './proc.ts';

const PERF_READY_MS = 300;

export class Flood {
  readonly process: ChildProcess;
  readonly #lines: AsyncIterator<string>;

  private constructor(argv: readonly string[]) {
    const [program = '', ...args] = argv;
    this.process = spawn(program, args, {
      env: { PATH: '/usr/sbin:/usr/bin:/sbin:/bin' },
      stdio: ['pipe', 'pipe', 'inherit'],
    });
    const lines = createInterface({ input: this.process.stdout ?? process.stdin });
    this.#lines = lines[Symbol.asyncIterator]();
  }

  /** @param argv a VMM with the guest, whose COM1 is on stdio. @returns once the guest is ready. */
  static async start(argv: readonly string[]): Promise<Flood> {
    const flood = new Flood(argv);
    while ((await flood.#line()) !== 'ready');
    return flood;
  }

  async #line(): Promise<string> {
    const { value, done } = await this.#lines.next();
    if (done) throw new Error('The guest ended');
    return value;
  }

  /** Tells the guest numbers, a line each. @returns what it says once it has done so, as JSON. */
  async burst<T>(...numbers: readonly number[]): Promise<T> {
    this.process.stdin?.write(numbers.map((number) => `${number}\n`).join(''));
    return JSON.parse(await this.#line());
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

/**
 * Counts an event of a thread while `work` runs, by `perf`, which needs root.
 * @param events the thread of each.
 */
export async function counted(
  events: Readonly<Record<string, string>>,
  work: () => Promise<void>,
): Promise<number[]> {
  const directory = mkdtempSync(join(tmpdir(), 'perf-'));
  try {
    const counters = Object.entries(events).map(([event, thread], index) => {
      const output = join(directory, `${index}`);
      const perf = spawn('perf', ['stat', '-x,', '-e', event, '-t', thread, '-o', output], {
        stdio: ['ignore', 'ignore', 'inherit'],
      });
      return { perf, output };
    });
    await sleep(PERF_READY_MS);
    await work();
    return await Promise.all(counters.map(countOf));
  } finally {
    rmSync(directory, { recursive: true });
  }
}

async function countOf({ perf, output }: { perf: ChildProcess; output: string }): Promise<number> {
  const ended = once(perf, 'exit');
  perf.kill('SIGINT');
  await ended;
  const line = readFileSync(output, 'utf8')
    .split('\n')
    .find((text) => /^\d/.test(text));
  return Number(line?.split(',')[0] ?? Number.NaN);
}
