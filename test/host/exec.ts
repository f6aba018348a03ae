/** Shell commands on a host, made of KvmHost.spawn. */
import { once } from 'node:events';
import type { Readable } from 'node:stream';
import { setTimeout as sleep } from 'node:timers/promises';
import { type ExecOptions, type ExecResult, HostTimeoutError, type KvmHost } from './host.ts';

const TIMEOUT_MS = 60_000;

/** See KvmHost.exec. */
export async function execOn(
  host: Pick<KvmHost, 'spawn'>,
  command: string,
  { timeoutMs = TIMEOUT_MS, input = '', ...options }: ExecOptions = {},
): Promise<ExecResult> {
  const child = await host.spawn(['sh', '-c', command], options);
  const stdout = new Output(child.stdout);
  const stderr = new Output(child.stderr);
  child.stdin.end(input);
  const done = Promise.all([child.exited, stdout.ended, stderr.ended]);
  const cancel = new AbortController();
  const late = sleep(timeoutMs, undefined, { signal: cancel.signal }).catch(() => undefined);
  const first = await Promise.race([done, late]);
  cancel.abort();
  if (first) return { ...first[0], stdout: stdout.text(), stderr: stderr.text() };
  child.kill('SIGKILL'); // and with it, its group
  const said = `stdout: ${stdout.text()}\nstderr: ${stderr.text()}`;
  throw new HostTimeoutError(`Command took more than ${timeoutMs} ms: ${command}\n${said}`);
}

/** Runs a command that must succeed, and gives its output. */
export async function mustExec(
  host: Pick<KvmHost, 'exec'>,
  command: string,
  options?: ExecOptions,
): Promise<string> {
  const { code, stdout, stderr } = await host.exec(command, options);
  if (code !== 0) throw new Error(`Command ended with ${code}: ${command}\n${stdout}${stderr}`);
  return stdout;
}

/** Collects a stream; a timeout shows what there is of it. */
class Output {
  readonly ended: Promise<unknown>;
  readonly #chunks: Buffer[] = [];

  constructor(stream: Readable) {
    stream.on('data', (chunk: Buffer) => this.#chunks.push(chunk));
    this.ended = once(stream, 'end');
  }

  text(): string {
    return Buffer.concat(this.#chunks).toString();
  }
}

/** A word of a shell command that stands for exactly `text`. */
export function shellQuote(text: string): string {
  return `'${text.replaceAll("'", `'\\''`)}'`;
}
