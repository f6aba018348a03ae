/** The vfio-user server of test/e2e/programs on this machine, and what it says. */
import { type ChildProcess, spawn } from 'node:child_process';
import { createInterface } from 'node:readline';
import { linuxProgram } from './linux-program.ts';

export const FAILURES = { none: 0, ends: 1, hangs: 2 } as const;

export class VfioUserServer {
  readonly said: string[] = [];
  readonly #process: ChildProcess;

  private constructor(path: string, failure: keyof typeof FAILURES) {
    const program = linuxProgram('test/e2e/programs/vfio-user.c');
    this.#process = spawn(program, [path, `${FAILURES[failure]}`], {
      stdio: ['ignore', 'pipe', 'inherit'],
    });
    const { stdout } = this.#process;
    if (stdout) createInterface(stdout).on('line', (line) => this.said.push(line));
  }

  /** Resolves when it listens. */
  static async start(path: string, failure: keyof typeof FAILURES = 'none') {
    const server = new VfioUserServer(path, failure);
    await server.says('ready');
    return server;
  }

  async says(line: string): Promise<void> {
    while (!this.said.includes(line)) await new Promise((resolve) => setTimeout(resolve, 2));
  }

  async kill(): Promise<void> {
    if (this.#process.exitCode !== null || this.#process.signalCode !== null) return;
    const ended = new Promise((resolve) => this.#process.once('exit', resolve));
    this.#process.kill('SIGKILL');
    await ended;
  }
}
