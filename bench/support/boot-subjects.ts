/** Programs that boot a Linux guest when they are told to over a socket, all of them alike. */

/** The guest. Its console is COM1, which goes to stdout. Paths are the host's. */
export interface BootMachine {
  cpus: number;
  memoryMiB: number;
  kernel: string;
  initramfs: string;
  cmdline: string;
  /** A raw image. With it come the disk, a random number generator and a second console. */
  disk?: string;
}

export interface BootSubject {
  name: string;
  /**
   * The program, which then waits on `socket`, and what it is sent: requests, each with how its
   * answer starts. The last starts the guest, and is not waited for.
   */
  boot(socket: string, machine: BootMachine): { argv: string[]; requests: string[] };
}

function put(verb: string, body = ''): string {
  const length = body ? `Content-Length: ${Buffer.byteLength(body)}\r\n` : '';
  return `PUT /api/v1/${verb} HTTP/1.1\r\nHost: localhost\r\n${length}\r\n${body}`;
}

export const cloudHypervisor = (name: string, path: string): BootSubject => ({
  name,
  boot: (socket, { cpus, memoryMiB, kernel, initramfs, cmdline, disk }) => {
    const config = {
      cpus: { boot_vcpus: cpus, max_vcpus: cpus },
      memory: { size: memoryMiB * 1024 * 1024 },
      payload: { kernel, initramfs, cmdline },
      serial: { mode: 'Tty' },
      console: { mode: disk ? 'Null' : 'Off' },
      ...(disk && { disks: [{ path: disk, image_type: 'Raw' }] }),
    };
    return {
      argv: [path, '--api-socket', socket],
      requests: [put('vm.create', JSON.stringify(config)), 'HTTP/1.1 20', put('vm.boot')],
    };
  },
});

const QEMU_DEVICES = [
  ...['-object', 'rng-random,id=rng0,filename=/dev/urandom', '-device', 'virtio-rng-pci,rng=rng0'],
  ...['-chardev', 'null,id=console0', '-device', 'virtio-serial-pci'],
  ...['-device', 'virtconsole,chardev=console0'],
];

/** @param machine as `-M` takes it. */
export const qemu = (name: string, machine: string): BootSubject => ({
  name,
  boot: (socket, { cpus, memoryMiB, kernel, initramfs, cmdline, disk }) => ({
    argv: [
      ...['/usr/bin/qemu-system-x86_64', '-M', machine, '-accel', 'kvm', '-cpu', 'host'],
      ...['-smp', `${cpus}`, '-m', `${memoryMiB}`],
      ...['-nodefaults', '-no-user-config', '-display', 'none', '-no-reboot', '-serial', 'stdio'],
      ...['-kernel', kernel, '-initrd', initramfs, '-append', cmdline],
      ...(disk ? ['-drive', `file=${disk},if=virtio,format=raw`, ...QEMU_DEVICES] : []),
      ...['-S', '-qmp', `unix:${socket},server=on,wait=off`],
    ],
    requests: [
      ...['', '{"QMP"', '{"execute":"qmp_capabilities"}', '{"return"'],
      '{"execute":"cont"}',
    ],
  }),
});
