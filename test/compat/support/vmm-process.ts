/** The product as a client has it: a process of its own with an API socket, in a scratch folder. */
import { type ChildProcess, type StdioOptions, spawn } from 'node:child_process';
import { chownSync, mkdtempSync, rmSync } from 'node:fs';
import { connect } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

export const LAUNCHER = join(import.meta.dirname, '../../../dist/cloud-hypervisor');

/** No verb may need longer, on a machine that does other things too. */
const ANSWER_MS_MAX = 8000;

const START_MS_MAX = 10_000;

export interface StartOptions {
  launcher?: string;
  /** Given the folder, what stands on the command line beside the API socket. */
  args?: (folder: string) => readonly string[];
  /** A command that execs what follows it, as in `taskset -c 0`. */
  through?: readonly string[];
  stdio?: StdioOptions;
  /** Of user and group. */
  id?: number;
}

export interface Answer {
  /** Undefined if the connection ended, or the time did, without one. */
  status: number | undefined;
  head: string;
  /** Parsed where it is JSON, undefined where there is none. */
  body: unknown;
  /** All that came back, further answers included. */
  text: string;
}

export function parseAnswer(text: string): Answer {
  const [head = '', ...rest] = text.split('\r\n\r\n');
  const status = /^HTTP\/1\.1 (\d{3})\b/.exec(head)?.[1];
  const length = /Content-Length: (\d+)/.exec(head)?.[1];
  const raw = rest.join('\r\n\r\n').slice(0, Number(length ?? 0));
  return { status: status === undefined ? undefined : Number(status), head, body: json(raw), text };
}

function json(raw: string): unknown {
  if (raw === '') return undefined;
  try {
    return JSON.parse(raw);
  } catch {
    return raw;
  }
}

/** The text of a request as most clients send it. */
export function requestText(method: string, path: string, body?: unknown): string {
  const text = typeof body === 'string' || body === undefined ? body : JSON.stringify(body);
  const length = text === undefined ? '' : `Content-Length: ${Buffer.byteLength(text)}\r\n`;
  return `${method} ${path} HTTP/1.1\r\nHost: localhost\r\n${length}\r\n${text ?? ''}`;
}

export class VmmProcess implements AsyncDisposable {
  /** Gone with the process. */
  readonly folder = mkdtempSync(join(tmpdir(), 'vmm-'));
  readonly socket = join(this.folder, 'api.sock');
  readonly child: ChildProcess;
  readonly #exited: Promise<number | string | null>;

  private constructor(options: StartOptions) {
    const { launcher = LAUNCHER, args, through = [], stdio = 'ignore', id } = options;
    if (id !== undefined) chownSync(this.folder, id, id);
    const words = [...through, launcher, '--api-socket', this.socket];
    const [command = '', ...rest] = [...words, ...(args?.(this.folder) ?? [])];
    const user = id === undefined ? {} : { uid: id, gid: id };
    this.child = spawn(command, rest, { cwd: this.folder, env: {}, stdio, ...user });
    this.#exited = new Promise((resolve) => {
      this.child.once('exit', (code, signal) => resolve(signal ?? code));
    });
  }

  /** Resolves when it answers. */
  static async start(options: StartOptions = {}): Promise<VmmProcess> {
    const vmm = VmmProcess.launch(options);
    for (const end = Date.now() + START_MS_MAX; Date.now() < end; ) {
      const { status } = await vmm.get('vmm.ping').catch(() => ({ status: undefined }));
      if (status === 200) return vmm;
      await new Promise((resolve) => setTimeout(resolve, 5));
    }
    await vmm[Symbol.asyncDispose]();
    throw new Error('The VMM does not answer');
  }

  /** For one that may never answer. */
  static launch(options: StartOptions): VmmProcess {
    return new VmmProcess(options);
  }

  get pid(): number {
    return this.child.pid ?? 0;
  }

  /** Its status, or the signal that ended it; rejects if it lives on. */
  exitCode(): Promise<number | string | null> {
    const late = new Promise<never>((_, reject) => {
      setTimeout(() => reject(new Error('The VMM lives on')), ANSWER_MS_MAX).unref();
    });
    return Promise.race([this.#exited, late]);
  }

  get(name: string): Promise<Answer> {
    return this.raw(requestText('GET', `/api/v1/${name}`));
  }

  /** A body that is no text is sent as JSON. */
  put(name: string, body?: unknown): Promise<Answer> {
    return this.raw(requestText('PUT', `/api/v1/${name}`, body));
  }

  /** `None` without a VM. */
  async state(): Promise<string> {
    const { body } = await this.get('vm.info');
    return (body as { state?: string }).state ?? 'None';
  }

  /**
   * Sends raw bytes on a connection of its own, all at once or in the given pieces, and resolves
   * with what comes back until the server closes, which it does once the client has.
   */
  raw(request: string | Uint8Array | readonly string[]): Promise<Answer> {
    return new Promise((resolve, reject) => {
      const socket = connect(this.socket);
      let text = '';
      const timer = setTimeout(() => {
        reject(
          new Error(`No answer within ${ANSWER_MS_MAX} ms to ${String(request).slice(0, 80)}`),
        );
        socket.destroy();
      }, ANSWER_MS_MAX);
      socket.on('data', (bytes) => {
        text += bytes.toString('latin1');
      });
      socket.on('error', (error) => {
        clearTimeout(timer);
        if (text === '') reject(error);
      });
      socket.on('close', () => {
        clearTimeout(timer);
        resolve(parseAnswer(text));
      });
      void send(socket, request);
    });
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.child.kill('SIGKILL');
    await this.#exited;
    rmSync(this.folder, { recursive: true });
  }
}

async function send(
  socket: ReturnType<typeof connect>,
  request: string | Uint8Array | readonly string[],
): Promise<void> {
  if (typeof request === 'string' || request instanceof Uint8Array) {
    socket.end(request);
    return;
  }
  socket.setNoDelay(true);
  for (const piece of request) {
    socket.write(piece);
    await new Promise((resolve) => setImmediate(resolve)); // a write of its own each
  }
  socket.end();
}
