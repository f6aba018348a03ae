/** The programs that a test guest can run under: the product, and QEMU as its peer. */
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import type { KvmHost } from '../../host/host.ts';
import type { Nic } from './network.ts';

/** Where a test types and reads: a serial port by stdio, a file or a socket, or hvc0 by stdio. */
export type Terminal = 'serial-tty' | 'serial-file' | 'serial-socket' | 'virtio-tty';

/** A disk image on the host. */
export interface Disk {
  path: string;
  /** As the product calls it; left to the VMM if not given, by QEMU taken for raw. */
  format?: 'raw' | 'qcow2' | 'vhd' | 'vhdx';
  /** Further settings of the product's `--disk`, as in `backing_files=on`. */
  settings?: string;
}

/** A guest to start. Paths are the host's. */
export interface Machine {
  cpus: number;
  /** How many there can be; as many as `cpus` if not given. */
  cpusMax?: number;
  /** As the command line takes it, `2:2:1:1`; the VMM's own if not given. */
  topology?: string;
  /** As in `512M`. */
  memory: string;
  kernel: string;
  initramfs: string;
  cmdline: string;
  disks: readonly Disk[];
  nics: readonly Nic[];
  terminal: Terminal;
  /** What `--console` is beside a serial port; `off` if not given. */
  console?: string;
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
export const DIST = join(import.meta.dirname, '../../../dist');

export const product: Vmm = {
  name: 'cloud-hypervisor',
  hasApi: true,
  async argv(host, machine) {
    if (!existsSync(DIST)) throw new Error(`There is no ${DIST}: run \`npm run build\` first`);
    const dist = await host.stage(DIST);
    const { memory, kernel, initramfs, cmdline, disks, nics, console = 'off' } = machine;
    const serial = {
      'serial-tty': ['--serial', 'tty', '--console', console],
      'serial-file': ['--serial', `file=${machine.terminalPath}`, '--console', console],
      'serial-socket': ['--serial', `socket=${machine.terminalPath}`, '--console', console],
      'virtio-tty': ['--serial', 'off', '--console', 'tty'],
    }[machine.terminal];
    return [
      `${dist}/cloud-hypervisor`,
      ...['--api-socket', machine.apiSocket, '--kernel', kernel, '--initramfs', initramfs],
      ...['--cmdline', cmdline, '--cpus', cpusSetting(machine), '--memory', `size=${memory}`],
      ...(disks.length > 0 ? ['--disk', ...disks.map(diskSetting)] : []),
      ...(nics.length > 0 ? ['--net', ...nics.map(netSetting)] : []),
      ...serial,
      ...machine.args,
    ];
  },
};

const cpusSetting = ({ cpus, cpusMax = cpus, topology }: Machine): string =>
  [`boot=${cpus},max=${cpusMax}`, topology && `topology=${topology}`].filter(Boolean).join();

const diskSetting = ({ path, format, settings }: Disk): string =>
  [`path=${path}`, format && `image_type=${format}`, settings].filter(Boolean).join();

const netSetting = ({ tap, mac, queuePairs, settings }: Nic): string =>
  [`tap=${tap}`, `mac=${mac}`, `num_queues=${2 * queuePairs}`, settings].filter(Boolean).join();

/** Debian 12's QEMU 7.2, as it comes. */
export const qemu: Vmm = {
  name: 'qemu',
  hasApi: false,
  async argv(_host, machine) {
    const { cpus, cpusMax = cpus, memory, kernel, initramfs, cmdline, disks } = machine;
    const console = {
      'serial-tty': ['-serial', 'stdio'],
      'serial-file': ['-serial', `file:${machine.terminalPath}`],
      'serial-socket': ['-serial', `unix:${machine.terminalPath},server=on,wait=off`],
      'virtio-tty': [
        ...['-serial', 'none', '-chardev', 'stdio,id=hvc0', '-device', 'virtio-serial-pci'],
        ...['-device', 'virtconsole,chardev=hvc0'],
      ],
    }[machine.terminal];
    return [
      'qemu-system-x86_64',
      ...['-M', 'q35', '-accel', 'kvm', '-cpu', 'host', '-m', memory],
      ...['-smp', `${cpus},maxcpus=${cpusMax}`],
      ...['-nodefaults', '-display', 'none', '-monitor', 'none', '-no-reboot'],
      ...['-kernel', kernel, '-initrd', initramfs, '-append', cmdline],
      ...disks.flatMap(qemuDisk),
      ...machine.nics.flatMap(qemuNet),
      ...console,
      ...machine.args,
    ];
  },
};

function qemuDisk({ path, format = 'raw' }: Disk): string[] {
  const driver = format === 'vhd' ? 'vpc' : format;
  return ['-drive', `file=${path},if=virtio,format=${driver},discard=unmap`];
}

/** The data plane of QEMU itself: vhost would be the host's kernel. */
function qemuNet({ tap, mac, mtu, queuePairs }: Nic): string[] {
  const queues = queuePairs > 1 ? `,queues=${queuePairs}` : '';
  const vectors = queuePairs > 1 ? `,mq=on,vectors=${2 * queuePairs + 2}` : '';
  return [
    '-netdev',
    `tap,id=${tap},ifname=${tap},script=no,downscript=no,vhost=off${queues}`,
    '-device',
    `virtio-net-pci,netdev=${tap},mac=${mac},host_mtu=${mtu},romfile=${vectors}`,
  ];
}

/**
 * What tests boot: the product, or with `E2E_VMM=qemu` its peer, which tells a fault of a test from
 * one of the product.
 */
export const subject = process.env['E2E_VMM'] === 'qemu' ? qemu : product;
