/** The NVMe drive of the emulated host, handed to guests. */
import { mustExec } from '../../host/exec.ts';
import type { KvmHost } from '../../host/host.ts';
import { cleanUp, currentHost } from './current-host.ts';

/**
 * QEMU's own NVMe controller, so that no disk of somebody's is ever taken. A test that failed may
 * have left it removed.
 */
const FIND =
  'echo 1 >/sys/bus/pci/rescan; ' +
  'for d in /sys/bus/pci/devices/*; do ' +
  'test "$(cat $d/vendor)$(cat $d/device)" = 0x1b360x0010 && basename $d; done';

/** Has another driver take it over, or its own if `driver` is empty. */
const bind = (name: string, driver: string): string =>
  `d=/sys/bus/pci/devices/${name}; echo ${driver} >$d/driver_override; ` +
  `if test -e $d/driver; then echo ${name} >$d/driver/unbind; fi; ` +
  `echo ${name} >/sys/bus/pci/drivers_probe`;

export class HostDevice implements AsyncDisposable {
  readonly host: KvmHost;
  /** As in `0000:00:04.0`. */
  readonly name: string;

  private constructor(host: KvmHost, name: string) {
    this.host = host;
    this.name = name;
  }

  /** Takes it from the host's own driver. */
  static async take(): Promise<HostDevice> {
    const host = await currentHost();
    const [name] = (await mustExec(host, `${FIND}; true`)).split('\n');
    if (!name) throw new Error('This host has no NVMe controller of QEMU: use KVM_HOST=emulated');
    const device = new HostDevice(host, name);
    await mustExec(host, bind(name, 'vfio-pci'));
    return device;
  }

  get path(): string {
    return `/sys/bus/pci/devices/${this.name}`;
  }

  /** Gives it to the host's own driver, for as long as that takes. */
  async onHost<T>(work: (disk: string) => Promise<T>): Promise<T> {
    await mustExec(this.host, bind(this.name, ''));
    try {
      const nodes = `/sys/bus/pci/devices/${this.name}/nvme/*/nvme*n1`;
      const wait = `for i in $(seq 100); do ls -d ${nodes} && exit; sleep 0.1; done 2>/dev/null`;
      const node = (await mustExec(this.host, wait)).trim();
      return await work(`/dev/${node.split('/').at(-1)}`);
    } finally {
      await mustExec(this.host, bind(this.name, 'vfio-pci'));
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await cleanUp(this.host, bind(this.name, ''));
  }
}
