/** Runs the programs of the machine that images are made with, and says what to do if one fails. */
import { spawn } from 'node:child_process';

/** A step of the set-up failed: what it was, why, and what the reader can do about it. */
export class StepError extends Error {
  override readonly name = 'StepError';
  constructor(step: string, why: string, remedy: string) {
    super(`${step} failed: ${why}\n  Remedy: ${remedy}`);
  }
}

export interface Step {
  /** What is being done, as in `Download the kernel`. */
  step: string;
  /** What to do if it fails. */
  remedy: string;
  cwd?: string;
  input?: Uint8Array;
}

/** The last lines of a failed program's output that are worth showing. */
const LINES_SHOWN = 15;

/**
 * Runs a program to its end.
 *
 * @returns what it wrote to stdout.
 * @throws StepError if it cannot be started or ends with another code than 0.
 */
export function run(argv: readonly [string, ...string[]], step: Step): Promise<Buffer> {
  const [program, ...args] = argv;
  const { promise, resolve, reject } = withResolvers<Buffer>();
  const child = spawn(program, args, {
    ...(step.cwd === undefined ? {} : { cwd: step.cwd }),
    env: { ...process.env, LC_ALL: 'C', DEBIAN_FRONTEND: 'noninteractive' },
    stdio: 'pipe',
  });
  const out: Buffer[] = [];
  const all: Buffer[] = [];
  child.stdout.on('data', (chunk: Buffer) => out.push(chunk) && all.push(chunk));
  child.stderr.on('data', (chunk: Buffer) => all.push(chunk));
  child.on('error', (error) => reject(new StepError(step.step, error.message, step.remedy)));
  child.on('close', (code, signal) => {
    if (code === 0) return resolve(Buffer.concat(out));
    const tail = Buffer.concat(all).toString().trimEnd().split('\n').slice(-LINES_SHOWN);
    const why = [`${argv.join(' ')} ended with ${signal ?? code}`, ...tail].join('\n    ');
    reject(new StepError(step.step, why, step.remedy));
  });
  child.stdin.on('error', () => {}); // a program need not read its input; its exit code tells
  child.stdin.end(step.input);
  return promise;
}

/** As Promise.withResolvers of newer Node versions. */
export function withResolvers<T>() {
  let resolve: (value: T) => void = () => {};
  let reject: (error: unknown) => void = () => {};
  const promise = new Promise<T>((onValue, onError) => {
    resolve = onValue;
    reject = onError;
  });
  return { promise, resolve, reject };
}

/** Prints a line of progress: slow steps say what they do, so that a wait can be understood. */
export function progress(line: string): void {
  console.log(`[prepare] ${line}`);
}
