/** One start of the emulated host: a QEMU process, its console, and its end. */
import { type ChildProcess, spawn } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { once } from 'node:events';
import { createWriteStream, mkdirSync } from 'node:fs';
import { dirname } from 'node:path';
import { withResolvers } from '../../guest-images/command.ts';
import { freePort } from './free-port.ts';
import type { HostImages } from './prepare.ts';

export interface MachineOptions {
  images: HostImages;
  /** What the host prints goes there. */
  consolePath: string;
  /** 6144 if not given. */
  memoryMiB?: number;
  /** Instead of `-smp 2` and the multi-threaded TCG, as in a bench whose figures must repeat. */
  cpuArguments?: string[];
  /** Further devices. */
  moreArguments?: string[];
}

/** Why a machine ended. Only `kernel-death` is known to be nobody's fault. */
export interface MachineEnd {
  kind: 'kernel-death' | 'exit';
  reason: string;
}

/** What the host's kernel prints when it dies, as it does now and then under a nested guest. */
const DEATHS = ['stack guard page was hit', 'Kernel panic'];

/** For the kernel to tell where it died; then it resets its CPU, which ends QEMU. */
const LAST_WORDS_MS = 2000;

/** In the machine; any number that no test listens on. */
const AGENT_PORT = 7770;

const CPU_ARGUMENTS = ['-accel', 'tcg,thread=multi,tb-size=1024', '-smp', '2'];

const KERNEL_ARGUMENTS = [
  'console=ttyS0',
  'quiet',
  'panic=-1', // with -no-reboot, a panic ends QEMU
  'net.ifnames=0',
  'mitigations=off',
  'intel_iommu=on',
  'iommu=pt',
];

export class EmulatedMachine {
  /** Resolves once, when the machine is of no more use. */
  readonly ended: Promise<MachineEnd>;
  readonly id: string;
  readonly port: number;
  readonly #qemu: ChildProcess;
  readonly #end = withResolvers<MachineEnd>();
  #death: string | undefined;

  static async start(options: MachineOptions): Promise<EmulatedMachine> {
    const port = await freePort();
    return new EmulatedMachine(options, port, randomBytes(8).toString('hex'));
  }

  private constructor(options: MachineOptions, port: number, id: string) {
    this.port = port;
    this.id = id;
    this.ended = this.#end.promise;
    // The kernel ends QEMU when the thread that started it does, however that came about.
    const argv = ['--pdeathsig', 'KILL', ...options.images.qemu.argv, ...machine(options)];
    argv.push(
      '-append',
      [...KERNEL_ARGUMENTS, `agent_port=${AGENT_PORT}`, `agent_id=${id}`].join(' '),
    );
    argv.push(...network(port));
    this.#qemu = spawn('setpriv', argv, { stdio: ['ignore', 'pipe', 'pipe'] });
    this.#qemu.on('error', (error) => this.#endWith('exit', error.message));
    this.#qemu.on('exit', (code, signal) => this.#exited(code, signal));
    this.#logConsole(options.consolePath);
  }

  /** @returns when QEMU is gone. */
  async stop(): Promise<void> {
    if (this.#qemu.pid === undefined || this.#qemu.exitCode !== null || this.#qemu.signalCode)
      return;
    const gone = once(this.#qemu, 'exit');
    this.#qemu.kill('SIGKILL'); // nothing of it is kept: the disk is a snapshot
    await gone;
  }

  #logConsole(path: string): void {
    mkdirSync(dirname(path), { recursive: true });
    const file = createWriteStream(path, { flags: 'a' });
    let line = '';
    for (const stream of [this.#qemu.stdout, this.#qemu.stderr])
      stream?.on('data', (chunk: Buffer) => {
        file.write(chunk);
        line += chunk.toString('latin1');
        const death = DEATHS.find((text) => line.includes(text));
        if (death) this.#die(`its console says: ${death}`);
        line = line.slice(line.lastIndexOf('\n') + 1);
      });
    this.#qemu.on('close', () => file.end());
  }

  #die(reason: string): void {
    this.#death ??= reason;
    setTimeout(() => this.#endWith('kernel-death', reason), LAST_WORDS_MS);
  }

  /** Nobody has the machine power off or reboot, so if QEMU ends as it should, its kernel died. */
  #exited(code: number | null, signal: string | null): void {
    if (this.#death === undefined && code !== 0)
      this.#endWith('exit', `QEMU ended: ${signal ?? code}`);
    else this.#endWith('kernel-death', this.#death ?? 'its CPU was reset');
  }

  #endWith(kind: MachineEnd['kind'], reason: string): void {
    this.#end.resolve({ kind, reason });
  }
}

function machine({ images, memoryMiB = 6144, cpuArguments, moreArguments }: MachineOptions) {
  return [
    ...['-M', 'q35,kernel-irqchip=split', '-cpu', 'EPYC', '-m', `${memoryMiB}`],
    ...(cpuArguments ?? CPU_ARGUMENTS),
    // 48 bits: with the default 39, the DMA map of high PCI BARs is refused.
    ...['-device', 'intel-iommu,intremap=on,caching-mode=on,aw-bits=48'],
    ...['-display', 'none', '-monitor', 'none', '-serial', 'stdio', '-no-reboot'],
    ...['-kernel', images.kernel, '-initrd', images.initramfs],
    ...['-drive', `file=${images.root},if=none,id=root,format=raw,snapshot=on`],
    ...['-device', 'virtio-blk-pci,drive=root'],
    ...['-drive', `file=${images.nvme},if=none,id=nvme,format=raw,snapshot=on`],
    ...['-device', 'nvme,drive=nvme,serial=passthrough'],
    ...(moreArguments ?? []),
  ];
}

/** A network with nobody on it but this machine, which reaches the agent's port and no other. */
function network(port: number): string[] {
  const forward = `hostfwd=tcp:127.0.0.1:${port}-10.0.2.15:${AGENT_PORT}`;
  return [
    ...['-netdev', `user,id=agent,restrict=on,ipv6=off,${forward}`],
    ...['-device', 'virtio-net-pci,netdev=agent,romfile='],
  ];
}
