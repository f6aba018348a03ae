/** What a guest and its NIC agree upon: queues and offloads. */
import { expect, test } from 'vitest';
import { Guest } from './support/guest.ts';
import { IPERF, iperf, serveIperf } from './support/iperf.ts';
import { Network, type Nic } from './support/network.ts';
import { stream, TCP_STREAM } from './support/tcp-stream.ts';

const MIB = 2 ** 20;

/** Frames that each queue of eth0 has carried, as in `rx_queue_1_packets`. */
async function packets(guest: Guest): Promise<Record<string, number>> {
  const lines = await guest.run('ethtool -S eth0');
  const counts = lines.matchAll(/([rt]x_queue_\d+_packets): (\d+)/g);
  return Object.fromEntries([...counts].map(([, name, count]) => [name, Number(count)]));
}

test('both of two queue pairs carry, one of them when told so, and both again', async () => {
  await using network = await Network.make({ queuePairs: 2 });
  await using guest = await Guest.boot({
    cpus: 2,
    network,
    programs: { ...IPERF, ethtool: '/usr/sbin/ethtool' },
  });
  await serveIperf(guest);
  const combined = async () => (await guest.run('ethtool -l eth0')).match(/Combined:\t+(\d+)/g);
  const load = async () => {
    await iperf(network, { from: 'host', seconds: 1, parallel: 8 });
    for (const cpu of [1, 2]) await guest.run(`taskset ${cpu} ping -c 3 -i 0.1 -W 5 10.77.0.1`);
  };

  expect(await combined()).toEqual(['Combined:\t2', 'Combined:\t2']);
  await load();
  const atFirst = await packets(guest);
  await guest.run('ethtool -L eth0 combined 1');
  await load();
  const withOne = await packets(guest);
  await guest.run('ethtool -L eth0 combined 2');
  await load();
  const withBoth = await packets(guest);

  expect(Object.keys(withOne)).toEqual(['rx_queue_0_packets', 'tx_queue_0_packets']);
  for (const queue of ['rx_queue_0', 'rx_queue_1', 'tx_queue_0', 'tx_queue_1']) {
    const name = `${queue}_packets`;
    expect(atFirst[name], name).toBeGreaterThan(2);
    expect(withBoth[name], name).toBeGreaterThan((atFirst[name] ?? 0) + 2);
  }
});

/** Bytes a frame, both directions, as the guest counts them while data goes there and back. */
async function frameSizes(network: Network, guest: Guest, { name }: Nic, nic: number) {
  const read = async () => {
    const files = 'rx_bytes rx_packets tx_bytes tx_packets';
    const text = await guest.run(`cd /sys/class/net/${name}/statistics && cat ${files}`);
    return text.split('\n').map(Number);
  };
  const mean = (before: number[], after: number[], at: number) => {
    const grown = (index: number) => (after[index] ?? 0) - (before[index] ?? 0);
    return grown(at) / grown(at + 1);
  };
  const start = await read();
  await stream(network, guest, 'host', 8 * MIB, nic);
  const between = await read();
  await stream(network, guest, 'guest', 8 * MIB, nic);
  const end = await read();
  return { received: mean(start, between, 0), sent: mean(between, end, 2) };
}

test('offloads that are switched off are not there, and frames are no larger then', async () => {
  const noTso = 'offload_tso=off,offload_ufo=off';
  await using network = await Network.make(
    {},
    { settings: noTso },
    { settings: `${noTso},offload_csum=off` },
  );
  await using guest = await Guest.boot({ network, programs: TCP_STREAM });
  const features = (nic: string) =>
    guest.run(`cut -c1,2,8,12 /sys/class/net/${nic}/device/features`);

  // CSUM, GUEST_CSUM, GUEST_TSO4, HOST_TSO4
  expect(await features('eth0')).toBe('1111');
  expect(await features('eth1')).toBe('1100');
  expect(await features('eth2')).toBe('0000');

  for (const [index, nic] of network.nics.entries()) {
    const { received, sent } = await frameSizes(network, guest, nic, index);
    const isLarge = index === 0;
    expect(received > 1514, `${nic.name} received frames of ${received} bytes`).toBe(isLarge);
    expect(sent > 1514, `${nic.name} sent frames of ${sent} bytes`).toBe(isLarge);
  }
});
