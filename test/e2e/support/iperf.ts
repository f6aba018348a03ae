/** iperf3 between a guest and the host. */
import type { Guest } from './guest.ts';
import type { Network } from './network.ts';

/** To be among the guest's programs. */
export const IPERF = { iperf3: '/usr/bin/iperf3' };

export interface IperfOptions {
  from: 'host' | 'guest';
  seconds: number;
  /** Connections at once; 1 if not given. */
  parallel?: number;
  /** The number of the NIC; 0 if not given. */
  nic?: number;
}

/** What the receiver got, in bits a second. Needs `iperf3 -s -D` in the guest. */
export async function iperf(network: Network, options: IperfOptions): Promise<number> {
  const { from, seconds, parallel = 1, nic = 0 } = options;
  const address = network.nics[nic]?.guestAddress;
  const reverse = from === 'guest' ? '-R' : '';
  const json = await network.run(
    `iperf3 -J -c ${address} -t ${seconds} -P ${parallel} ${reverse}`,
    { timeoutMs: (seconds + 30) * 1000 },
  );
  return JSON.parse(json).end.sum_received.bits_per_second;
}

/** Starts the guest's side. */
export const serveIperf = (guest: Guest): Promise<string> => guest.run('iperf3 -s -D');
