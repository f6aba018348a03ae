/** What boots the Linux guests of a bench: ours, QEMU, and peers with the command line of ours. */
import { product, qemu, type Vmm } from '../../test/e2e/support/vmm.ts';
import type { Peer } from './subjects.ts';

export const vmms = (peers: readonly Peer[]): Vmm[] => [product, qemu, ...peers.map(peerVmm)];

/** As a column of a table is called. */
export const nameOf = (vmm: Vmm): string => (vmm === product ? 'ours' : vmm.name);

const peerVmm = ({ name, path }: Peer): Vmm => ({
  name,
  hasApi: true,
  async argv(host, machine) {
    const [, ...args] = await product.argv(host, machine);
    return [await host.stage(path), ...args];
  },
});
