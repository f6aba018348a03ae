/** A driver of a client, beside the VMM: a line in, an answer out. */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { createInterface } from 'node:readline';
import type { Readable, Writable } from 'node:stream';
import { expect } from 'vitest';

export interface ClientAnswer {
  step: string;
  /** 0 if there was no reply; absent where the client does not tell. */
  status?: number;
  /** Of vm.info, and the config as the client decoded it, where it gives it back. */
  state?: string;
  config?: unknown;
  /** Of a device that was added. */
  device?: { id: string; bdf: string };
  /** What surprised the driver, which has ended then. */
  error?: string;
}

export interface DriverProcess {
  readonly stdin: Writable;
  readonly stdout: Readable;
  readonly stderr: Readable;
  kill(signal: NodeJS.Signals): void;
  readonly exited: Promise<{ code: number }>;
}

export class ClientDriver implements AsyncDisposable {
  readonly #process: DriverProcess;
  readonly #lines: AsyncIterator<string>;
  #stderr = '';

  constructor(process: DriverProcess) {
    this.#process = process;
    this.#lines = createInterface({ input: process.stdout })[Symbol.asyncIterator]();
    process.stderr.on('data', (chunk: Buffer) => {
      this.#stderr += chunk;
    });
  }

  /** On this machine. */
  static run(...[program = '', ...args]: readonly string[]): ClientDriver {
    const child = spawn(program, args, { stdio: 'pipe' });
    const exited = once(child, 'close').then(([code]) => ({ code: Number(code) }));
    const { stdin, stdout, stderr } = child;
    return new ClientDriver({
      stdin,
      stdout,
      stderr,
      exited,
      kill: (signal) => child.kill(signal),
    });
  }

  /** @param step as the driver's source lists them. */
  async take(step: string): Promise<ClientAnswer> {
    this.#process.stdin.write(`${step}\n`);
    const { done, value } = await this.#lines.next();
    if (done) throw new Error(`The driver ended before it answered ${step}\n${this.#stderr}`);
    return JSON.parse(value);
  }

  /** Takes the steps one by one, up to the first surprise. */
  async answers(...steps: readonly string[]): Promise<ClientAnswer[]> {
    const taken: ClientAnswer[] = [];
    for (const step of steps) {
      taken.push(await this.take(step));
      if (taken.at(-1)?.error) break;
    }
    return taken;
  }

  /** Tells it that no more steps come. @returns its exit code: 0 if nothing surprised it. */
  async finish(): Promise<number> {
    this.#process.stdin.end();
    return (await this.#process.exited).code;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#process.kill('SIGKILL');
    await this.#process.exited.catch(() => undefined); // the host is lost, and the driver with it
  }
}

const surprises = (answers: readonly ClientAnswer[]) =>
  answers.flatMap(({ step, error }) => (error === undefined ? [] : `${step}: ${error}`));

/** All of them without a surprise. @returns the last answer. */
export async function takes(
  driver: ClientDriver,
  ...steps: string[]
): Promise<ClientAnswer | undefined> {
  const answers = await driver.answers(...steps);
  expect(surprises(answers)).toEqual([]);
  return answers.at(-1);
}
