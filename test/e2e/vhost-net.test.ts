/** A card whose frames another process moves, be it the one that listens or that connects. */
import { expect, test } from 'vitest';
import { MIB } from '../../src/bytes.ts';
import { linuxProgram } from '../support/linux-program.ts';
import { Daemon } from './support/daemon.ts';
import { Guest } from './support/guest.ts';
import { Network } from './support/network.ts';
import { stream, TCP_STREAM } from './support/tcp-stream.ts';

const program = linuxProgram('test/e2e/programs/vhost-net.c');

/** Moves frames between a guest's card and the tap of `network`. */
async function backend(network: Network, connects: boolean): Promise<Daemon> {
  const path = await network.host.stage(program);
  const verb = connects ? 'connect' : 'listen';
  const argv = (folder: string) => [...network.prefix, path, verb, `${folder}/socket`, 'tap0'];
  return Daemon.run(argv, { connects });
}

test.for([
  ['client', false],
  ['server', true],
] as const)(
  'a card carries pings and TCP both ways, also after its backend was killed, with us the %s',
  { timeout: 240_000 },
  async ([mode, connects]) => {
    await using network = await Network.make({});
    await using daemon = await backend(network, connects);
    const { mac } = network.nics[0] ?? {};
    const card = `vhost_user=true,socket=${daemon.socket},vhost_mode=${mode},mac=${mac}`;
    await using guest = await Guest.boot({ args: ['--net', card], programs: TCP_STREAM });
    await network.configure(guest);
    const works = async () => {
      await network.run('ping -c 3 -i 0.2 -W 5 10.77.0.2');
      await guest.run('ping -c 3 -W 5 10.77.0.1');
      await stream(network, guest, 'guest', 4 * MIB);
      await stream(network, guest, 'host', 4 * MIB);
    };
    expect(await guest.run('cat /sys/class/net/eth0/address')).toBe(mac);
    await works();

    await daemon.kill();
    await guest.eventually('[ $(cat /sys/class/net/eth0/carrier) = 0 ]');
    expect((await guest.api.get('vmm.ping')).status).toBe(200);
    await daemon.start();

    await guest.eventually('[ $(cat /sys/class/net/eth0/carrier) = 1 ]');
    await works();
    expect((await guest.api.get('vm.counters')).json).toMatchObject({ _net0: { reconnects: 1 } });
    expect((await guest.api.put('vm.shutdown')).status).toBe(204);
  },
);
