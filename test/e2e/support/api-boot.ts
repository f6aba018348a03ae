/** Guests that are created and booted over the API, in either dialect of its config. */
import { guestImages } from '../../../guest-images/images.ts';
import { mustExec } from '../../host/exec.ts';
import { Guest } from './guest.ts';
import { product, type Vmm } from './vmm.ts';

/** The product as a service: an API socket, and no VM yet. */
const service: Vmm = {
  name: 'cloud-hypervisor',
  hasApi: true,
  async argv(host, machine) {
    const [binary = ''] = await product.argv(host, machine);
    return [binary, '--api-socket', machine.apiSocket, ...machine.args];
  },
};

export interface ApiBootOptions {
  dialect: 'seed' | 'today';
  kernel: 'vmlinux' | 'vmlinuz';
  cpus?: number;
}

const LISTENS_MS_MAX = 10_000;

/** Starts the product without a VM; resolves when it can be connected to. */
export async function startService(args: readonly string[] = []): Promise<Guest> {
  const guest = await Guest.start({ vmm: service, args });
  const socket = `${guest.directory}/api.sock`;
  const tries = LISTENS_MS_MAX / 50;
  const wait = `for i in $(seq ${tries}); do [ -S ${socket} ] && exit; sleep 0.05; done; exit 1`;
  await mustExec(guest.host, wait);
  return guest;
}

/** The body of vm.create for a guest whose console is the serial port, over stdio. */
export async function apiConfig(guest: Guest, options: ApiBootOptions): Promise<object> {
  const images = await guestImages();
  const kernel = await guest.host.stage(images[options.kernel]);
  const initramfs = await guest.host.stage(images.initramfs);
  const cpus = options.cpus ?? 1;
  const cmdline = 'console=ttyS0 quiet panic=-1';
  const common = {
    cpus: { boot_vcpus: cpus, max_vcpus: cpus },
    memory: { size: 512 * 1024 * 1024 },
    serial: { mode: 'Tty' },
    console: { mode: 'Off' },
  };
  return options.dialect === 'today'
    ? { ...common, payload: { kernel, initramfs, cmdline } }
    : {
        ...common,
        kernel: { path: kernel },
        cmdline: { args: cmdline },
        initramfs: { path: initramfs },
      };
}
