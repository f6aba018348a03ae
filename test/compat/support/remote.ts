/** `ch-remote` as a user runs it, and a server that answers it as it is told. */
import { spawn } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { native } from '../../../src/native.ts';
import type { FdListener } from '../../../src/native-sockets.ts';

export const REMOTE = join(import.meta.dirname, '../../../dist/ch-remote');

export interface Ended {
  exit: number | null;
  stdout: string;
  stderr: string;
}

/** @param fds of this process, which it has as 3 and so on. */
export function remote(args: readonly string[], stdin = '', fds: number[] = []): Promise<Ended> {
  const child = spawn(REMOTE, args, { env: {}, stdio: ['pipe', 'pipe', 'pipe', ...fds] });
  const said = { stdout: '', stderr: '' };
  for (const name of ['stdout', 'stderr'] as const)
    child[name]?.on('data', (bytes: Buffer) => {
      said[name] += String(bytes);
    });
  child.stdin?.on('error', () => {}); // it need not read all of it
  child.stdin?.end(stdin);
  return new Promise((resolve) => child.on('close', (exit) => resolve({ exit, ...said })));
}

/** What it printed of a failure, outermost first. */
export const chainOf = ({ stderr }: Pick<Ended, 'stderr'>): string[] =>
  [...stderr.matchAll(/^ {2}\d+: (.*)$/gm)].map(([, text = '']) => text);

export class FakeServer implements Disposable {
  readonly #folder = mkdtempSync(join(tmpdir(), 'remote-'));
  readonly path = join(this.#folder, 'api.sock');
  readonly #listener: FdListener;
  /** All that came in, of every connection, a character a byte. */
  received = '';
  readonly fds: number[] = [];

  /** Sends the pieces, each a write of its own, once the head and body of a request are in. */
  constructor(pieces: readonly (string | Buffer)[]) {
    this.#listener = new native.FdListener({
      path: this.path,
      onStall: () => {},
      onConnection: (fd) => this.#serve(fd, pieces),
    });
  }

  #serve(fd: number, pieces: readonly (string | Buffer)[]): void {
    const into = Buffer.alloc(1 << 16);
    const socket = new native.FdSocket(fd, {
      into,
      onData: (sizeBytes, fds) => {
        this.received += into.toString('latin1', 0, sizeBytes);
        this.fds.push(...(fds ?? []));
        if (isWhole(this.received)) void answer();
      },
      onEnd: () => socket.destroy(),
      onDrain: () => {},
      onClose: () => {},
    });
    const answer = async () => {
      await new Promise((resolve) => setTimeout(resolve, 20)); // so that the client has to wait
      for (const piece of pieces) {
        socket.write(Buffer.from(piece));
        await new Promise((resolve) => setImmediate(resolve));
      }
      socket.end();
    };
  }

  [Symbol.dispose](): void {
    this.#listener.close();
    rmSync(this.#folder, { recursive: true });
  }
}

function isWhole(request: string): boolean {
  const [head = '', ...rest] = request.split('\r\n\r\n');
  const length = Number(/Content-Length: (\d+)/.exec(head)?.[1] ?? 0);
  return rest.length > 0 && rest.join('\r\n\r\n').length >= length;
}
