/** A backend of vhost-user on the host, in a folder of its own, that a test kills and starts. */
import { randomBytes } from 'node:crypto';
import { mustExec } from '../../host/exec.ts';
import type { HostProcess, KvmHost } from '../../host/host.ts';
import { cleanUp, currentHost } from './current-host.ts';

export interface DaemonOptions {
  /** The VMM is the one that listens. */
  connects?: boolean;
}

export class Daemon implements AsyncDisposable {
  readonly host: KvmHost;
  readonly folder: string;
  readonly #argv: readonly string[];
  readonly #connects: boolean;
  #process: HostProcess | undefined;

  private constructor(host: KvmHost, folder: string, argv: readonly string[], connects: boolean) {
    this.host = host;
    this.folder = folder;
    this.#argv = argv;
    this.#connects = connects;
  }

  static async run(
    argv: (folder: string) => readonly string[],
    { connects = false }: DaemonOptions = {},
  ): Promise<Daemon> {
    const host = await currentHost();
    const folder = `/tmp/vhost-${randomBytes(4).toString('hex')}`;
    await mustExec(host, `mkdir -p ${folder}/share`);
    const daemon = new Daemon(host, folder, argv(folder), connects);
    await daemon.start();
    return daemon;
  }

  get socket(): string {
    return `${this.folder}/socket`;
  }

  async start(): Promise<void> {
    this.#process = await this.host.spawn(this.#argv);
    this.#process.stdout.resume();
    this.#process.stderr.resume();
    if (!this.#connects)
      await mustExec(this.host, `until [ -S ${this.socket} ]; do sleep 0.05; done`);
  }

  async kill(): Promise<void> {
    this.#process?.kill('SIGKILL');
    await this.#process?.exited;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.kill();
    await cleanUp(this.host, `rm -rf ${this.folder}`);
  }
}

/** Serves an image as a disk. */
export const storageDaemon = (path: string): Promise<Daemon> =>
  Daemon.run((folder) => [
    ...['qemu-storage-daemon', '--blockdev', `driver=file,node-name=disk,filename=${path}`],
    '--export',
    `type=vhost-user-blk,id=export,node-name=disk,writable=on,addr.type=unix,addr.path=${folder}/socket`,
  ]);

/** Serves its folder `share`. */
export const virtiofsd = (): Promise<Daemon> =>
  Daemon.run((folder) => [
    ...['/usr/lib/qemu/virtiofsd', `--socket-path=${folder}/socket`],
    ...['-o', `source=${folder}/share`, '-o', 'sandbox=chroot'],
  ]);
