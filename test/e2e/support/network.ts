/** A network for one test, in a namespace of the host: taps, and who is there. */
import { randomBytes } from 'node:crypto';
import { mustExec, shellQuote } from '../../host/exec.ts';
import type { ExecOptions, HostProcess, KvmHost } from '../../host/host.ts';
import { cleanUp, currentHost } from './current-host.ts';
import type { Guest } from './guest.ts';

export interface TapOptions {
  /** Of the tap; 1500 if not given. */
  mtu?: number;
  /** 1 if not given. */
  queuePairs?: number;
  /** Further settings of the product's `--net`, as in `offload_tso=off`. */
  settings?: string;
}

/** A tap, and the NIC of a guest on it. */
export interface Nic {
  tap: string;
  mtu: number;
  queuePairs: number;
  settings: string;
  mac: string;
  /** Of the two ends, in a /24 of their own. */
  hostAddress: string;
  guestAddress: string;
  /** In the guest, as `eth0`. */
  name: string;
}

export class Network implements AsyncDisposable {
  readonly host: KvmHost;
  readonly nics: Nic[] = [];
  readonly #namespace: string;

  private constructor(host: KvmHost, namespace: string) {
    this.host = host;
    this.#namespace = namespace;
  }

  /** A network with a tap for each of `taps`, up and with an address. */
  static async make(...taps: TapOptions[]): Promise<Network> {
    const host = await currentHost();
    const namespace = `test-${randomBytes(4).toString('hex')}`;
    await mustExec(host, `ip netns add ${namespace}`);
    const network = new Network(host, namespace);
    await network.run('ip link set lo up');
    for (const tap of taps) await network.#addTap(tap);
    return network;
  }

  /** What starts a program in this network. */
  get prefix(): readonly string[] {
    return ['nsenter', `--net=/run/netns/${this.#namespace}`];
  }

  /** @returns what a shell command on the host's side prints. @throws Error unless it ends with 0. */
  run(command: string, options?: ExecOptions): Promise<string> {
    return mustExec(this.host, `${this.prefix.join(' ')} sh -c ${shellQuote(command)}`, options);
  }

  /** Starts a program on the host's side. */
  spawn(argv: readonly string[]): Promise<HostProcess> {
    return this.host.spawn([...this.prefix, ...argv]);
  }

  /** Gives the guest's ends their addresses. One behind an IOMMU comes a while after its driver. */
  async configure(guest: Guest): Promise<void> {
    for (const { name, guestAddress } of this.nics) {
      await guest.eventually(`test -e /sys/class/net/${name}`);
      await guest.run(`ip link set ${name} up && ip addr add ${guestAddress}/24 dev ${name}`);
    }
  }

  async #addTap({ mtu = 1500, queuePairs = 1, settings = '' }: TapOptions): Promise<void> {
    const index = this.nics.length;
    const tap = `tap${index}`;
    const subnet = `10.77.${index}`;
    const multiQueue = queuePairs > 1 ? 'multi_queue' : '';
    const mac = `52:54:00:77:00:0${index}`;
    const hostAddress = `${subnet}.1`;
    await this.run(
      `ip tuntap add mode tap vnet_hdr ${multiQueue} name ${tap} && ` +
        `ip addr add ${hostAddress}/24 dev ${tap} && ip link set ${tap} mtu ${mtu} up`,
    );
    const addresses = { mac, hostAddress, guestAddress: `${subnet}.2` };
    this.nics.push({ tap, mtu, queuePairs, settings, ...addresses, name: `eth${index}` });
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await cleanUp(this.host, `ip netns del ${this.#namespace}`);
  }
}
