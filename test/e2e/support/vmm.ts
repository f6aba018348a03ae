/** The programs that a test guest can run under: the product, and QEMU as its peer. */
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import type { KvmHost } from '../../host/host.ts';

/** Where a test types and reads: a serial port by stdio, a file or a socket, or hvc0 by stdio. */
export type Terminal = 'serial-tty' | 'serial-file' | 'serial-socket' | 'virtio-tty';

/** A guest to start. Paths are the host's. */
export interface Machine {
  cpus: number;
  /** As the command line takes it, `2:2:1:1`; the VMM's own if not given. */
  topology?: string;
  /** As in `512M`. */
  memory: string;
  kernel: string;
  initramfs: string;
  cmdline: string;
  disks: readonly string[];
  terminal: Terminal;
  /** Where the console of `serial-file` or `serial-socket` is. */
  terminalPath: string;
  apiSocket: string;
  /** Further arguments of the VMM in use. */
  args: readonly string[];
}

export interface Vmm {
  readonly name: string;
  /** True if it has the API of cloud-hypervisor on `Machine.apiSocket`. */
  readonly hasApi: boolean;
  argv(host: KvmHost, machine: Machine): Promise<string[]>;
}

/** What the build makes, put onto the host as it is. */
const DIST = join(import.meta.dirname, '../../../dist');

export const product: Vmm = {
  name: 'cloud-hypervisor',
  hasApi: true,
  async argv(host, machine) {
    if (!existsSync(DIST)) throw new Error(`There is no ${DIST}: run \`npm run build\` first`);
    const dist = await host.stage(DIST);
    const { cpus, topology, memory, kernel, initramfs, cmdline, disks } = machine;
    const serial = {
      'serial-tty': ['--serial', 'tty', '--console', 'off'],
      'serial-file': ['--serial', `file=${machine.terminalPath}`, '--console', 'off'],
      'serial-socket': ['--serial', `socket=${machine.terminalPath}`, '--console', 'off'],
      'virtio-tty': ['--serial', 'off', '--console', 'tty'],
    }[machine.terminal];
    return [
      `${dist}/cloud-hypervisor`,
      ...['--api-socket', machine.apiSocket, '--kernel', kernel, '--initramfs', initramfs],
      ...[
        '--cmdline',
        cmdline,
        '--cpus',
        `boot=${cpus}${topology ? `,topology=${topology}` : ''}`,
        '--memory',
        `size=${memory}`,
      ],
      ...(disks.length > 0 ? ['--disk', ...disks.map((path) => `path=${path}`)] : []),
      ...serial,
      ...machine.args,
    ];
  },
};

/** Debian 12's QEMU 7.2, as it comes. */
export const qemu: Vmm = {
  name: 'qemu',
  hasApi: false,
  async argv(_host, machine) {
    const { cpus, memory, kernel, initramfs, cmdline, disks } = machine;
    const console = {
      'serial-tty': ['-serial', 'stdio'],
      'serial-file': ['-serial', `file:${machine.terminalPath}`],
      'serial-socket': ['-serial', `unix:${machine.terminalPath},server=on,wait=off`],
      'virtio-tty': [
        ...['-serial', 'none', '-chardev', 'stdio,id=hvc0', '-device', 'virtio-serial-pci'],
        ...['-device', 'virtconsole,chardev=hvc0'],
      ],
    }[machine.terminal];
    const drives = disks.flatMap((path) => ['-drive', `file=${path},if=virtio,format=raw`]);
    return [
      'qemu-system-x86_64',
      ...['-M', 'q35', '-accel', 'kvm', '-cpu', 'host', '-smp', `${cpus}`, '-m', memory],
      ...['-nodefaults', '-display', 'none', '-monitor', 'none', '-no-reboot'],
      ...['-kernel', kernel, '-initrd', initramfs, '-append', cmdline],
      ...drives,
      ...console,
      ...machine.args,
    ];
  },
};
