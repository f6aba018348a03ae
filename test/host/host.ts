/**
 * A machine with a usable /dev/kvm, on which the end-to-end tests run the product: this machine
 * (local-host.ts), or one that QEMU emulates (emulated-host.ts). Tests see only this interface.
 */
import type { Duplex, Readable, Writable } from 'node:stream';

export interface KvmHost extends AsyncDisposable {
  /** True if it is slow: some hundred million instructions a second, a guest boot of seconds. */
  readonly isEmulated: boolean;

  /** Another one after each start of the host, so that what was put there is known to be gone. */
  readonly id: string;

  /**
   * Runs a shell command to its end; whatever it left running in its process group is killed.
   *
   * @throws HostTimeoutError if it takes longer than `timeoutMs`; it is killed then.
   * @throws HostLostError
   */
  exec(command: string, options?: ExecOptions): Promise<ExecResult>;

  /**
   * Starts a program as the leader of a process group, which is killed when the program ends,
   * when this process ends, or when the connection to the host breaks.
   *
   * @throws Error with `code` ENOENT or EACCES if it cannot be started.
   * @throws HostLostError
   */
  spawn(argv: readonly string[], options?: SpawnOptions): Promise<HostProcess>;

  /**
   * Connects to a Unix stream socket on the host. Either end may be closed before the other.
   *
   * @throws Error with `code` ENOENT or ECONNREFUSED.
   * @throws HostLostError
   */
  connect(socketPath: string): Promise<Duplex>;

  /** Copies a file or a directory to the host, holes kept; parent directories are made. */
  put(localPath: string, hostPath: string): Promise<void>;

  /** Copies a file or a directory from the host. */
  get(hostPath: string, localPath: string): Promise<void>;

  /**
   * Makes a local file or directory readable on the host, and says at which path. Cheap when
   * repeated: the same content is copied once for each start of the host, or never if the host is
   * this machine.
   */
  stage(localPath: string): Promise<string>;

  /** Ends the host if it was started for this object; a host that was attached to stays up. */
  close(): Promise<void>;
}

export interface SpawnOptions {
  /** Working directory on the host; `/` if not given. */
  cwd?: string;
  /** Added to the host's environment. */
  env?: Record<string, string>;
}

export interface ExecOptions extends SpawnOptions {
  /** 60,000 if not given. */
  timeoutMs?: number;
  /** What the command reads from its stdin; nothing if not given. */
  input?: string;
}

export interface ProcessExit {
  /** Exit code, or 128 + the signal's number as a shell has it. */
  code: number;
  /** The signal that ended it, if one did. */
  signal: NodeJS.Signals | null;
}

export interface ExecResult extends ProcessExit {
  stdout: string;
  stderr: string;
}

export interface HostProcess {
  /** On the host. */
  readonly pid: number;
  readonly stdin: Writable;
  /** Read both outputs, or `resume()` them: a program whose output nobody takes stands still. */
  readonly stdout: Readable;
  readonly stderr: Readable;
  /** Signals the program itself, not its group; does nothing once it has ended. */
  kill(signal?: NodeJS.Signals): void;
  /** Resolves when it has ended and its output is read; rejects with HostLostError. */
  readonly exited: Promise<ProcessExit>;
}

/**
 * The host died or stopped answering. The test is not to blame and may be run again, on the host
 * that openHost() then gives.
 */
export class HostLostError extends Error {
  override readonly name = 'HostLostError';
  constructor(why: string, options?: ErrorOptions) {
    super(`The emulated host is lost: ${why}`, options); // test runners know it by these words
  }
}

/** The host's CPUs did what none do, and broke a guest. The test may be run again. */
export class HostFaultError extends Error {
  override readonly name = 'HostFaultError';
  constructor(what: string) {
    super(`The emulated host is at fault: ${what}`); // test runners know it by these words
  }
}

export class HostTimeoutError extends Error {
  override readonly name = 'HostTimeoutError';
}
