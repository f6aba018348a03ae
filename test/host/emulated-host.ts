/** A KVM host that QEMU emulates, used through the agent that runs on it. */
import { createHash } from 'node:crypto';
import { createReadStream } from 'node:fs';
import { readdir, stat } from 'node:fs/promises';
import { basename, join } from 'node:path';
import type { Duplex } from 'node:stream';
import { connectOn, spawnOn } from './agent-client.ts';
import { execOn, shellQuote } from './exec.ts';
import type { ExecOptions, HostProcess, KvmHost, SpawnOptions } from './host.ts';
import { getFrom, putOn } from './transfer.ts';

/** Where staged files are on the host, each below its content's hash. */
const STAGE = '/opt/staged';

export interface Endpoint {
  port: number;
  id: string;
  /** Ends what was started for this object, if anything was. */
  close(): Promise<void>;
}

export class EmulatedHost implements KvmHost {
  readonly isEmulated = true;
  readonly id: string;
  readonly #port: number;
  readonly #close: () => Promise<void>;
  /** Host paths by local path and time of change, of what this object has staged. */
  readonly #staged = new Map<string, Promise<string>>();

  constructor({ port, id, close }: Endpoint) {
    this.#port = port;
    this.id = id;
    this.#close = close;
  }

  exec(command: string, options?: ExecOptions) {
    return execOn(this, command, options);
  }

  spawn(argv: readonly string[], options: SpawnOptions = {}): Promise<HostProcess> {
    return spawnOn(this.#port, argv, options);
  }

  connect(socketPath: string): Promise<Duplex> {
    return connectOn(this.#port, socketPath);
  }

  put(localPath: string, hostPath: string) {
    return putOn(this, localPath, hostPath);
  }

  get(hostPath: string, localPath: string) {
    return getFrom(this, hostPath, localPath);
  }

  async stage(localPath: string): Promise<string> {
    const { mtimeMs, size } = await stat(localPath);
    const key = `${localPath} ${mtimeMs} ${size}`;
    const staged = this.#staged.get(key) ?? this.#stage(localPath);
    this.#staged.set(key, staged);
    return staged;
  }

  async #stage(localPath: string): Promise<string> {
    const hostPath = `${STAGE}/${await contentHash(localPath)}/${basename(localPath)}`;
    const { code } = await this.exec(`test -e ${shellQuote(hostPath)}`);
    if (code !== 0) await this.put(localPath, hostPath);
    return hostPath;
  }

  close(): Promise<void> {
    return this.#close();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close();
  }
}

/** A hash of a file's bytes, or of the names and bytes of all files in a directory. */
async function contentHash(path: string): Promise<string> {
  const hash = createHash('sha256');
  const root = await stat(path);
  const files = root.isDirectory() ? await readdir(path, { recursive: true }) : [''];
  for (const file of files.sort()) {
    const whole = join(path, file);
    if ((await stat(whole)).isDirectory()) continue;
    hash.update(`\0${file}\0`);
    for await (const chunk of createReadStream(whole)) hash.update(chunk);
  }
  return hash.digest('hex').slice(0, 16);
}
