/** What a guest's NIC carries. */
import { expect, test } from 'vitest';
import { Guest } from './support/guest.ts';
import { IPERF, iperf, serveIperf } from './support/iperf.ts';
import { Network } from './support/network.ts';
import { ScratchDisk } from './support/scratch-disk.ts';
import { stream, streamBothWays, TCP_STREAM } from './support/tcp-stream.ts';

const GIB = 2 ** 30;
const MIB = 2 ** 20;

test('guest and host reach each other, and a gibibyte arrives byte for byte each way', async () => {
  await using network = await Network.make({});
  await using guest = await Guest.boot({
    cpus: 2,
    network,
    programs: { ...IPERF, ...TCP_STREAM },
  });
  await serveIperf(guest);

  await network.run('ping -c 3 -i 0.2 -W 5 10.77.0.2');
  await guest.run('ping -c 3 -W 5 10.77.0.1');

  expect(await guest.run('cat /sys/class/net/eth0/address')).toBe(network.nics[0]?.mac);
  expect(await iperf(network, { from: 'host', seconds: 2 })).toBeGreaterThan(1e6);
  expect(await iperf(network, { from: 'guest', seconds: 2 })).toBeGreaterThan(1e6);

  await stream(network, guest, 'guest', GIB);
  await stream(network, guest, 'host', GIB);
}, 300_000);

test('jumbo frames pass whole in both directions', async () => {
  await using network = await Network.make({ mtu: 9000 });
  await using guest = await Guest.boot({ network, programs: TCP_STREAM });
  const largestPayload = 9000 - 28; // headers of IP and ICMP

  await network.run(`ping -c 2 -i 0.2 -W 5 -M do -s ${largestPayload} 10.77.0.2`);
  await guest.run(`ping -c 2 -W 5 -s ${largestPayload} 10.77.0.1`);

  const maximum = await guest.run('cat /sys/class/net/eth0/mtu');
  expect(maximum).toBe('9000');
  await stream(network, guest, 'guest', 16 * MIB);
  await stream(network, guest, 'host', 16 * MIB);
});

test('two cards and two disks work at the same time', async () => {
  await using network = await Network.make({}, {});
  await using source = await ScratchDisk.make(64, 'random');
  await using target = await ScratchDisk.make(64);
  await using guest = await Guest.boot({
    cpus: 2,
    network,
    programs: TCP_STREAM,
    disks: [source, target].map(({ path }) => ({ path, format: 'raw' })),
  });

  const copying = 'dd if=/dev/vda of=/dev/vdb bs=1M conv=fsync 2>/dev/null';
  await streamBothWays(network, guest, 128 * MIB, copying);

  expect(await target.imageSha256()).toBe(await source.imageSha256());
});
