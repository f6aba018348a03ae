/** A Linux guest under the product or a peer, as a test sees it: API, console, exit. */
import { randomBytes } from 'node:crypto';
import { dirname } from 'node:path';
import { setTimeout as sleep, setImmediate as tick } from 'node:timers/promises';
import { guestImages, iommuImages } from '../../../guest-images/images.ts';
import { withPrograms } from '../../../guest-images/programs.ts';
import { mustExec } from '../../host/exec.ts';
import { HostFaultError, type HostProcess, type KvmHost } from '../../host/host.ts';
import { ApiClient } from './api-client.ts';
import { blame, cleanUp, currentHost } from './current-host.ts';
import { keepLogOfFailedTest, writeLog } from './guest-log.ts';
import type { Network } from './network.ts';
import { portrait } from './portrait.ts';
import { ConsoleTimeoutError, SerialConsole } from './serial-console.ts';
import { type Answer, answerPattern, parseAnswer, QUIET, typedCommand } from './shell.ts';
import { openTerminal, type TerminalStreams } from './terminal.ts';
import { type Disk, type Machine, subject, type Terminal, type Vmm } from './vmm.ts';

export interface GuestOptions {
  /** `subject` if not given. */
  vmm?: Vmm;
  /** The one that the tests run on if not given. */
  host?: KvmHost;
  /** 1 if not given. */
  cpus?: number;
  /** See Machine. */
  cpusMax?: number;
  /** See Machine. */
  topology?: string;
  /** As in `512M`, which it is if not given. */
  memory?: string;
  /** Images, or the paths on the host of some whose format is not said. */
  disks?: readonly (string | Disk)[];
  /** Where the VMM runs, with a NIC for each tap there. The host's own, and no NIC, if not given. */
  network?: Network;
  /** Added to the kernel's command line. */
  cmdline?: string;
  /** Added to the VMM's arguments. */
  args?: readonly string[];
  /** `serial-tty` if not given. A guest with `serial-file` cannot be typed at. */
  terminal?: Terminal;
  /** The product's `--console` beside a terminal of another kind, as in `null`; none if not given. */
  console?: string;
  /** Programs of this machine, by the names that they get in the guest. */
  programs?: Readonly<Record<string, string>>;
  /** `vmlinux` if not given: nothing to decompress, which takes long on an emulated host. */
  kernel?: 'vmlinux' | 'vmlinuz';
  /** A newer kernel, which has the driver of virtio-iommu, and starts as `vmlinuz`. */
  hasIommu?: boolean;
}

const INIT = /guest: init reached.*\n/;
const READY = /guest: ready.*\n/;

const BOOT_TIMEOUT_MS = 90_000;
const COMMAND_TIMEOUT_MS = 30_000;
const EVENTUALLY_TIMEOUT_MS = 30_000;
const POLL_MS = 100;
const TERMINATE_TIMEOUT_MS = 5000;

export class Guest implements AsyncDisposable {
  readonly host: KvmHost;
  /** A directory on the host for this guest alone; removed at the end. */
  readonly directory: string;
  /** The VMM's own process. */
  readonly vmm: HostProcess;
  readonly api: ApiClient;
  readonly console: SerialConsole;
  /** The VMM's exit code; rejects with HostLostError. */
  readonly exited: Promise<number>;
  readonly #terminal: TerminalStreams;
  /** True if a test runs, whose failure has the log kept. */
  readonly #inTest: boolean;
  /** Where the log of a failure was written. */
  #logPath: string | undefined;
  #vmmLog = '';
  /** What the VMM did when a command was not answered. */
  #portrait = '';

  private constructor(
    host: KvmHost,
    machine: Machine,
    vmm: HostProcess,
    terminal: TerminalStreams,
  ) {
    this.host = host;
    this.directory = dirname(machine.apiSocket);
    this.vmm = vmm;
    this.api = new ApiClient(() => host.connect(machine.apiSocket));
    this.console = new SerialConsole(terminal.output, terminal.input);
    this.exited = vmm.exited.then(({ code }) => code);
    this.exited.catch(() => {}); // who awaits it hears of the loss; nobody has to
    this.#terminal = terminal;
    vmm.stderr.on('data', (chunk: Buffer) => {
      this.#vmmLog += chunk;
    });
    if (terminal.output !== vmm.stdout) vmm.stdout.resume();
    this.#inTest = keepLogOfFailedTest(() => this.#keepLog());
  }

  /** Starts a guest and waits until it takes commands. */
  static async boot(options: GuestOptions = {}): Promise<Guest> {
    const guest = await Guest.start(options);
    try {
      const takesCommands = options.terminal !== 'serial-file';
      await guest.ready(takesCommands);
      if (takesCommands) await options.network?.configure(guest);
      return guest;
    } catch (error) {
      await guest[Symbol.asyncDispose]();
      throw error;
    }
  }

  /** Waits until it has booted, after a start or a reboot, and takes commands if it can. */
  async ready(takesCommands = true): Promise<void> {
    await this.waitFor(INIT, BOOT_TIMEOUT_MS);
    await this.waitFor(READY, BOOT_TIMEOUT_MS);
    if (!takesCommands) return;
    this.console.type(`${QUIET}\n`);
    await this.run('true');
  }

  /** Starts a guest and does not wait for anything. */
  static async start(options: GuestOptions = {}): Promise<Guest> {
    const host = options.host ?? (await currentHost());
    const directory = `/tmp/guest-${randomBytes(4).toString('hex')}`;
    const machine = await machineOf(host, directory, options);
    const argv = await (options.vmm ?? subject).argv(host, machine);
    await mustExec(host, `mkdir ${directory}`);
    const prefix = options.network?.prefix ?? [];
    const vmm = await host.spawn([...prefix, ...argv], { cwd: directory });
    return new Guest(host, machine, vmm, await openTerminal(host, vmm, machine));
  }

  /** What the VMM wrote to stderr. */
  get vmmLog(): string {
    return this.#vmmLog;
  }

  /** @returns what a command in the guest prints. @throws Error unless it ends with 0. */
  async run(command: string, timeoutMs?: number): Promise<string> {
    const { code, output } = await this.answer(command, timeoutMs);
    if (code !== 0) throw new Error(`In the guest, this ended with ${code}: ${command}\n${output}`);
    return output;
  }

  /** @returns what a command in the guest prints, and its exit code. */
  async answer(command: string, timeoutMs = COMMAND_TIMEOUT_MS): Promise<Answer> {
    const mark = `m${randomBytes(4).toString('hex')}`;
    const whole = answerPattern(mark);
    const said = this.waitFor(new RegExp(`${whole.source}|${INIT.source}`), timeoutMs);
    this.console.type(typedCommand(command, mark));
    const text = await said;
    if (!whole.test(text)) throw restartError(this.host, command, text);
    return parseAnswer(text, mark);
  }

  /** Repeats a command in the guest until it ends with 0. */
  async eventually(command: string, timeoutMs = EVENTUALLY_TIMEOUT_MS): Promise<string> {
    const deadline = Date.now() + timeoutMs;
    for (;;) {
      const { code, output } = await this.answer(command);
      if (code === 0) return output;
      if (Date.now() > deadline)
        throw new Error(`In the guest, still ${code} after ${timeoutMs} ms: ${command}\n${output}`);
      await sleep(POLL_MS);
    }
  }

  /**
   * Waits for text on the console that nobody waited for before.
   *
   * @returns what was printed up to its end.
   * @throws ConsoleTimeoutError, or HostFaultError on an emulated host; Error if the VMM ends
   *   first; HostLostError
   */
  async waitFor(pattern: string | RegExp, timeoutMs: number): Promise<string> {
    const found = this.console.waitFor(pattern, timeoutMs);
    found.catch(() => {}); // of no interest once the VMM has ended
    const ended = this.exited.then(async (code) => {
      await tick(); // what it printed last comes first
      throw new Error(`The VMM ended with ${code} before ${pattern} came\n${this.#vmmLog}`);
    });
    try {
      return await Promise.race([found, ended]);
    } catch (error) {
      this.#portrait = await portrait(this.host, this.vmm.pid);
      if (!this.#inTest) this.#keepLog();
      throw await blame(this.host, silenceError(this.host, error));
    }
  }

  /** Ends the VMM, however it is, and cleans up after it. */
  async [Symbol.asyncDispose](): Promise<void> {
    this.vmm.kill('SIGTERM');
    const timer = setTimeout(() => this.vmm.kill('SIGKILL'), TERMINATE_TIMEOUT_MS);
    await this.exited.catch(() => {});
    clearTimeout(timer);
    this.#terminal.close();
    await cleanUp(this.host, `rm -rf ${this.directory}`);
  }

  #keepLog(): void {
    const parts = [
      this.console.text,
      `--- stderr of the VMM ---\n${this.#vmmLog}`,
      ...(this.#portrait && [`--- threads of the VMM ---\n${this.#portrait}`]),
    ];
    const log = parts.join('\n');
    this.#logPath = writeLog(log, this.#logPath);
  }
}

/** What it means that init starts in the middle of a command. A kernel that panics says so. */
function restartError(host: KvmHost, command: string, text: string): Error {
  const what = `the guest started anew in the middle of: ${command}`;
  return host.isEmulated && !text.includes('Kernel panic')
    ? new HostFaultError(what)
    : new Error(`${what}\n${text}`);
}

/** What it means that a guest says nothing more: on such a host, maybe a lost interrupt. */
function silenceError(host: KvmHost, error: unknown): unknown {
  const isSilent = host.isEmulated && error instanceof ConsoleTimeoutError;
  return isSilent ? new HostFaultError(error.message) : error;
}

async function imagesOf({ hasIommu }: GuestOptions) {
  if (!hasIommu) return guestImages();
  const images = await iommuImages();
  return { ...images, vmlinux: images.vmlinuz };
}

/** The machine that `options` ask for, with its images on the host. */
async function machineOf(
  host: KvmHost,
  directory: string,
  options: GuestOptions,
): Promise<Machine> {
  const { vmlinux, vmlinuz, initramfs } = await imagesOf(options);
  const { terminal = 'serial-tty', cmdline = '' } = options;
  const console = terminal === 'virtio-tty' ? 'hvc0' : 'ttyS0';
  return {
    cpus: options.cpus ?? 1,
    ...(options.cpusMax && { cpusMax: options.cpusMax }),
    ...(options.topology && { topology: options.topology }),
    memory: options.memory ?? '512M',
    kernel: await host.stage(options.kernel === 'vmlinuz' ? vmlinuz : vmlinux),
    initramfs: await host.stage(withPrograms(initramfs, options.programs ?? {})),
    cmdline: `console=${console} quiet panic=-1 ${cmdline}`.trimEnd(),
    disks: (options.disks ?? []).map((disk) => (typeof disk === 'string' ? { path: disk } : disk)),
    nics: options.network?.nics ?? [],
    terminal,
    ...(options.console && { console: options.console }),
    terminalPath: `${directory}/console`,
    apiSocket: `${directory}/api.sock`,
    args: options.args ?? [],
  };
}
