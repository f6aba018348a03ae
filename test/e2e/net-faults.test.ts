/** A tap that goes away or changes while the guest uses it. */
import { once } from 'node:events';
import { setTimeout as sleep } from 'node:timers/promises';
import { expect, test } from 'vitest';
import { Guest } from './support/guest.ts';
import { IPERF, serveIperf } from './support/iperf.ts';
import { Network } from './support/network.ts';
import { stream, TCP_STREAM } from './support/tcp-stream.ts';

const MIB = 2 ** 20;

test('what either end sends arrives although the tap went down and up', async () => {
  await using network = await Network.make({});
  await using guest = await Guest.boot({ network, programs: TCP_STREAM });

  for (const from of ['guest', 'host'] as const) {
    const sent = stream(network, guest, from, 128 * MIB);
    for (let i = 0; i < 2; i++) {
      await sleep(500);
      await network.run('ip link set tap0 down && sleep 0.2 && ip link set tap0 up');
    }
    await sent;
  }

  await network.run('ping -c 3 -i 0.2 -W 5 10.77.0.2');
});

test('what either end sends arrives although the MTU of the tap falls and rises', async () => {
  await using network = await Network.make({ mtu: 9000 });
  await using guest = await Guest.boot({ network, programs: TCP_STREAM });
  const changeMtu = (mtu: number) => network.run(`ip link set tap0 mtu ${mtu}`);

  for (const from of ['guest', 'host'] as const) {
    let changes = 0;
    let isOver = false;
    const sent = stream(network, guest, from, 64 * MIB).finally(() => {
      isOver = true;
    });
    for (; !isOver; changes++) {
      await sleep(100);
      await changeMtu([1500, 65_521, 9000][changes % 3] ?? 0);
    }
    await sent;
    expect(changes).toBeGreaterThan(3);
  }

  await changeMtu(65_521); // a frame of this size is more than the guest was told at its boot
  await network.run('ping -c 3 -i 0.2 -W 5 -M do -s 30000 10.77.0.2');
  await changeMtu(1500);
  await network.run('ping -c 3 -i 0.2 -W 5 10.77.0.2');
  expect((await guest.api.get('vm.info')).json).toMatchObject({ state: 'Running' });
});

test('a tap that is deleted under load is a cable pulled, and no end of the VM', async () => {
  await using network = await Network.make({}, {});
  await using guest = await Guest.boot({ cpus: 2, network, programs: IPERF });
  await serveIperf(guest);
  const load = await network.spawn(['iperf3', '-c', '10.77.0.2', '-R', '-t', '60', '--forceflush']);
  load.stderr.resume();
  await once(load.stdout, 'data');
  await sleep(1000);

  await network.run('ip link del tap0');

  await guest.eventually('[ "$(cat /sys/class/net/eth0/carrier)" = 0 ]');
  await guest.answer('ping -c 2 -W 1 10.77.0.1');
  await network.run('ping -c 3 -i 0.2 -W 5 10.77.1.2');
  expect(await guest.run('cat /sys/class/net/eth1/carrier')).toBe('1');
  load.kill('SIGKILL');
});
