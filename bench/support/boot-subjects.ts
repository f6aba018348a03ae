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
  /** What a client of the API has besides. */
  client?: ClientDevices;
}

/** A root file system as persistent memory, a vsock, a card on a tap, and room for more RAM. */
export interface ClientDevices {
  /** A raw image. */
  pmem: string;
  pmemMiB: number;
  /** As much as the host has. */
  ramMiBMax: number;
  vsockSocket: string;
}

export interface BootSubject {
  name: string;
  /**
   * The program, which then waits on `socket`, and what it is sent: requests, each with how its
   * answer starts. The last starts the guest, and is not waited for.
   */
  boot(socket: string, machine: BootMachine): { argv: string[]; requests: string[] };
}

const MIB = 2 ** 20;

function put(verb: string, body = ''): string {
  const length = body ? `Content-Length: ${Buffer.byteLength(body)}\r\n` : '';
  return `PUT /api/v1/${verb} HTTP/1.1\r\nHost: localhost\r\n${length}\r\n${body}`;
}

const DONE = 'HTTP/1.1 20';
/** Twice, as clients look before a boot. */
const INFOS = Array(2)
  .fill(['GET /api/v1/vm.info HTTP/1.1\r\nHost: localhost\r\n\r\n', DONE])
  .flat();

const clientConfig = ({ pmem, vsockSocket }: ClientDevices): object => ({
  net: [{ mac: '02:00:00:00:00:01' }],
  pmem: [{ file: pmem, discard_writes: true }],
  vsock: { cid: 3, socket: vsockSocket },
});

export const cloudHypervisor = (name: string, path: string): BootSubject => ({
  name,
  boot: (socket, { cpus, memoryMiB, kernel, initramfs, cmdline, disk, client }) => {
    const config = {
      cpus: { boot_vcpus: cpus, max_vcpus: cpus },
      memory: {
        size: memoryMiB * MIB,
        ...(client && { hotplug_size: (client.ramMiBMax - memoryMiB) * MIB }),
      },
      payload: { kernel, initramfs, cmdline },
      serial: { mode: 'Tty' },
      console: { mode: disk ? 'Null' : 'Off' },
      ...(disk && { disks: [{ path: disk, image_type: 'Raw' }] }),
      ...(client && clientConfig(client)),
    };
    const create = [put('vm.create', JSON.stringify(config)), DONE];
    return {
      argv: [path, '--api-socket', socket],
      requests: [...create, ...(client ? INFOS : []), put('vm.boot')],
    };
  },
});

const QEMU_DEVICES = [
  ...['-object', 'rng-random,id=rng0,filename=/dev/urandom', '-device', 'virtio-rng-pci,rng=rng0'],
  ...['-chardev', 'null,id=console0', '-device', 'virtio-serial-pci'],
  ...['-device', 'virtconsole,chardev=console0'],
];

const qemuClientDevices = ({ pmem, pmemMiB }: ClientDevices): string[] => [
  ...['-object', `memory-backend-file,id=pmem0,mem-path=${pmem},size=${pmemMiB}M,share=off`],
  ...['-device', 'virtio-pmem-pci,memdev=pmem0', '-device', 'vhost-vsock-pci,guest-cid=3'],
  ...['-netdev', 'tap,id=net0,script=no,downscript=no', '-device', 'virtio-net-pci,netdev=net0'],
];

/** @param machine as `-M` takes it. */
export const qemu = (name: string, machine: string): BootSubject => ({
  name,
  boot: (socket, { cpus, memoryMiB, kernel, initramfs, cmdline, disk, client }) => ({
    argv: [
      ...['/usr/bin/qemu-system-x86_64', '-M', machine, '-accel', 'kvm', '-cpu', 'host'],
      ...['-smp', `${cpus}`],
      ...['-m', `${memoryMiB}M${client ? `,slots=8,maxmem=${client.ramMiBMax}M` : ''}`],
      ...['-nodefaults', '-no-user-config', '-display', 'none', '-no-reboot', '-serial', 'stdio'],
      ...['-kernel', kernel, '-initrd', initramfs, '-append', cmdline],
      ...(disk ? ['-drive', `file=${disk},if=virtio,format=raw`, ...QEMU_DEVICES] : []),
      ...(client ? qemuClientDevices(client) : []),
      ...['-S', '-qmp', `unix:${socket},server=on,wait=off`],
    ],
    requests: [
      ...['', '{"QMP"', '{"execute":"qmp_capabilities"}', '{"return"'],
      '{"execute":"cont"}',
    ],
  }),
});
