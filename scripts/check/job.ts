/** Commands, run two at a time: as many as the smallest machine has CPUs. */
import { spawn } from 'node:child_process';

const AT_ONCE = 2;

/** Resolves to what is wrong, as text; '' if nothing is. */
export type Job = () => Promise<string>;

export interface Ending {
  ok: boolean;
  output: string;
}

/** Runs one command to its end; what it says on both streams is its output. */
export function run(
  argv: readonly string[],
  env: NodeJS.ProcessEnv = {},
  timeoutMs = 300_000,
): Promise<Ending> {
  const [file = '', ...args] = argv;
  return new Promise((resolve) => {
    const child = spawn(file, args, { env: { ...process.env, ...env }, timeout: timeoutMs });
    let output = '';
    const collect = (chunk: Buffer) => {
      output += chunk.toString();
    };
    child.stdout.on('data', collect);
    child.stderr.on('data', collect);
    child.on('error', (error) => resolve({ ok: false, output: error.message }));
    child.on('close', (code, signal) => {
      if (signal !== null) output += `\nEnded by ${signal}`;
      resolve({ ok: code === 0, output });
    });
  });
}

/** A command as a job: it is wrong if it does not end with 0. */
export const command =
  (...argv: string[]): Job =>
  async () => {
    const { ok, output } = await run(argv);
    return ok ? '' : `${argv.join(' ')}\n${output}`;
  };

/** Does `work` for each item, in order, two at a time. */
export async function inParallel<T>(
  items: readonly T[],
  work: (item: T) => Promise<void>,
): Promise<void> {
  const queue = items.values();
  const worker = async () => {
    for (const item of queue) await work(item);
  };
  await Promise.all(Array.from({ length: AT_ONCE }, worker));
}
