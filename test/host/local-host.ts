/** This machine as the KVM host, where it has hardware virtualisation. */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { constants } from 'node:fs';
import { open, readFile } from 'node:fs/promises';
import { connect } from 'node:net';
import { constants as os } from 'node:os';
import { type Duplex, PassThrough } from 'node:stream';
import { execOn } from './exec.ts';
import type { ExecOptions, HostProcess, KvmHost, ProcessExit, SpawnOptions } from './host.ts';
import { getFrom, putOn } from './transfer.ts';

/**
 * True if real Linux guests run on this machine's own KVM. There are /dev/kvm without VMX or SVM
 * behind them, which cannot run a whole kernel.
 */
export async function hasHardwareVirtualisation(): Promise<boolean> {
  if (process.env['KVM_HOST'] === 'emulated') return false; // whoever wants that host anyway
  const cpus = await readFile('/proc/cpuinfo', 'utf8').catch(() => '');
  if (!/^flags\s*:.* (vmx|svm)( |$)/m.test(cpus)) return false;
  const kvm = await open('/dev/kvm', constants.O_RDWR).catch(() => undefined);
  await kvm?.close();
  return kvm !== undefined;
}

export class LocalHost implements KvmHost {
  readonly isEmulated = false;
  readonly id = 'local';
  /** Process groups that were started here and may still run. */
  readonly #groups = new Set<number>();
  readonly #onExit = () => this.#killGroups();

  constructor() {
    process.on('exit', this.#onExit);
  }

  exec(command: string, options?: ExecOptions) {
    return execOn(this, command, options);
  }

  async spawn(argv: readonly string[], { cwd, env }: SpawnOptions = {}): Promise<HostProcess> {
    const [program = '', ...args] = argv;
    const child = spawn(program, args, {
      cwd: cwd ?? '/',
      env: { ...process.env, ...env },
      detached: true, // a process group of its own
      stdio: 'pipe',
    });
    await once(child, 'spawn');
    const pid = child.pid ?? 0;
    this.#groups.add(pid);
    child.stdin.on('error', () => {}); // it need not read all of its input
    child.on('exit', () => {
      killGroup(pid);
      this.#groups.delete(pid);
    });
    const exited = once(child, 'close').then(([code, signal]) => toExit(code, signal));
    return {
      pid,
      stdin: child.stdin,
      // Node throws away what a program that has ended wrote, unless somebody reads it by then.
      stdout: child.stdout.pipe(new PassThrough()),
      stderr: child.stderr.pipe(new PassThrough()),
      exited,
      kill: (signal = 'SIGTERM') => child.kill(signal),
    };
  }

  async connect(socketPath: string): Promise<Duplex> {
    const socket = connect({ path: socketPath, allowHalfOpen: true });
    await once(socket, 'connect');
    return socket;
  }

  put(localPath: string, hostPath: string) {
    return putOn(this, localPath, hostPath);
  }

  get(hostPath: string, localPath: string) {
    return getFrom(this, hostPath, localPath);
  }

  async stage(localPath: string): Promise<string> {
    return localPath;
  }

  async close(): Promise<void> {
    this.#killGroups();
    process.off('exit', this.#onExit);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close();
  }

  #killGroups(): void {
    for (const pid of this.#groups) killGroup(pid);
    this.#groups.clear();
  }
}

function toExit(code: number | null, signal: NodeJS.Signals | null): ProcessExit {
  return { code: code ?? 128 + (signal ? os.signals[signal] : 0), signal };
}

function killGroup(pid: number): void {
  try {
    process.kill(-pid, 'SIGKILL');
  } catch {
    // Nobody is left in it.
  }
}
