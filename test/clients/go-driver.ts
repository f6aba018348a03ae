/** The driver of the Go client, run on the host beside the VMM: a line in, an answer out. */
import { createInterface } from 'node:readline';
import type { HostProcess, KvmHost } from '../host/host.ts';
import { goClient } from './go-client.ts';

export interface GoAnswer {
  step: string;
  /** 0 if there was no reply. */
  status: number;
  /** Of vm.info. */
  state?: string;
  /** What surprised the driver, which has ended then. */
  error?: string;
}

export class GoDriver implements AsyncDisposable {
  readonly #process: HostProcess;
  readonly #lines: AsyncIterator<string>;
  #stderr = '';

  private constructor(process: HostProcess) {
    this.#process = process;
    this.#lines = createInterface({ input: process.stdout })[Symbol.asyncIterator]();
    process.stderr.on('data', (chunk: Buffer) => {
      this.#stderr += chunk;
    });
  }

  /** @param apiSocket its path on the host; nobody need listen there yet. */
  static async start(host: KvmHost, apiSocket: string): Promise<GoDriver> {
    const binary = await host.stage(await goClient());
    return new GoDriver(await host.spawn([binary, apiSocket]));
  }

  /** @param step as go-2020/main.go lists them. */
  async take(step: string): Promise<GoAnswer> {
    this.#process.stdin.write(`${step}\n`);
    const { done, value } = await this.#lines.next();
    if (done) throw new Error(`The Go driver ended before it answered ${step}\n${this.#stderr}`);
    return JSON.parse(value);
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
