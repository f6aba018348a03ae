/** A guest's vsock device, and programs at both of its ends. */
import { randomBytes } from 'node:crypto';
import { mustExec } from '../../host/exec.ts';
import type { KvmHost } from '../../host/host.ts';
import { linuxProgram } from '../../support/linux-program.ts';
import { cleanUp, currentHost } from './current-host.ts';

const program = linuxProgram('test/e2e/programs/vsock-stream.c');
const GUEST_CID = 3;
const TIMEOUT_MS = 100_000;

/** To be among the guest's programs. */
export const VSOCK_STREAM = { 'vsock-stream': program };

/** The address of a port of the host, for a program in the guest; and of its own, to listen. */
export const hostPort = (port: number): string => `vsock:2:${port}`;
export const ownPort = (port: number): string => `vsock:${GUEST_CID}:${port}`;

export class Vsock implements AsyncDisposable {
  readonly host: KvmHost;
  /** On the host. It outlives the guests that have it. */
  readonly socket: string;
  /** Arguments of the VMM. */
  readonly args: readonly string[];
  readonly #folder: string;

  private constructor(host: KvmHost, folder: string) {
    this.host = host;
    this.#folder = folder;
    this.socket = `${folder}/socket`;
    this.args = ['--vsock', `cid=${GUEST_CID},socket=${this.socket}`];
  }

  static async make(): Promise<Vsock> {
    const host = await currentHost();
    const folder = `/tmp/vsock-${randomBytes(4).toString('hex')}`;
    await mustExec(host, `mkdir ${folder}`);
    return new Vsock(host, folder);
  }

  /** The address of a port of the guest, for a program of the host; and of a port of the host. */
  guestPort(port: number): string {
    return `guest:${this.socket}:${port}`;
  }

  ownPort(port: number): string {
    return `unix:${this.socket}_${port}`;
  }

  /** What `vsock-stream` prints on the host. */
  async run(args: string, timeoutMs = TIMEOUT_MS): Promise<string> {
    return (
      await mustExec(this.host, `${await this.host.stage(program)} ${args}`, { timeoutMs })
    ).trim();
  }

  /** Has `vsock-stream` run on the host again and again, until what this resolves to is disposed of. */
  async serve(args: string): Promise<AsyncDisposable> {
    const loop = `while :; do ${await this.host.stage(program)} ${args}; done`;
    const shell = await this.host.spawn(['sh', '-c', loop]);
    shell.stdout.resume();
    shell.stderr.resume();
    return {
      [Symbol.asyncDispose]: async () => {
        shell.kill('SIGKILL');
        await shell.exited;
      },
    };
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await cleanUp(this.host, `rm -r ${this.#folder}`);
  }
}
