/**
 * Networks: what TCP carries and how long an answer takes, between a Linux guest and its host over
 * a tap, beside QEMU without vhost.
 *
 *     npx tsx bench/net.ts [--peer NAME=PATH]... [--rounds N] [--json FILE]
 *
 * Runs where the end-to-end tests run (test/host), in a network namespace of its own. Subjects
 * alternate within each round, each in a guest of its own with one queue pair.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import { passOnGuestImages } from '../guest-images/images.ts';
import { Guest } from '../test/e2e/support/guest.ts';
import { IPERF, iperf, serveIperf } from '../test/e2e/support/iperf.ts';
import { Network } from '../test/e2e/support/network.ts';
import { ScratchDisk } from '../test/e2e/support/scratch-disk.ts';
import { product, type Vmm } from '../test/e2e/support/vmm.ts';
import { openHost } from '../test/host/open-host.ts';
import { linuxProgram } from '../test/support/linux-program.ts';
import { again } from './support/again.ts';
import { jsThread } from './support/js-thread.ts';
import { placeOf } from './support/place.ts';
import { add, type Goal, median, report, type Samples } from './support/record.ts';
import { benchArguments } from './support/subjects.ts';
import { nameOf, vmms } from './support/vmms.ts';

const SECONDS = 3;
const STEADY_SECONDS = 5;
const PINGS = 60;

const TO_HOST = 'TCP, guest to host, µs a MiB';
const TO_GUEST = 'TCP, host to guest, µs a MiB';
const PING = 'ping, median of a run, µs';
const EXCHANGE = 'TCP request and response, µs';
const JS_TICKS = `CPU ticks of the JS thread in ${STEADY_SECONDS} s of network and disk`;
const JS_SWITCHES = 'context switches of it';

const GOALS: Goal[] = [
  ...[TO_HOST, TO_GUEST, PING, EXCHANGE].map((measure) => ({ measure, limit: 1, times: 'qemu' })),
  { measure: JS_TICKS, limit: 0 },
];

const samples: Samples = new Map();
const echo = linuxProgram('bench/guest/tcp-echo.c');
const diskLoad = linuxProgram('bench/guest/disk-load.c');

const microsecondsPerMib = (bitsPerSecond: number): number => (8 * 2 ** 20 * 1e6) / bitsPerSecond;

async function pingMicroseconds(network: Network): Promise<number> {
  const lines = await network.run(`ping -c ${PINGS} -i 0.02 10.77.0.2`);
  const times = [...lines.matchAll(/time=([\d.]+) ms/g)].map(([, ms]) => 1000 * Number(ms));
  return median(times);
}

/** While data goes to the host and the disk is read. */
async function measureIdleness(guest: Guest, network: Network): Promise<void> {
  const seconds = STEADY_SECONDS + 4;
  await guest.run(`disk-load /dev/vda read random 4096 8 ${seconds} >/tmp/disk-load &`);
  const load = iperf(network, { from: 'guest', seconds });
  await sleep(2000);
  const before = await jsThread(guest);
  await sleep(STEADY_SECONDS * 1000);
  const after = await jsThread(guest);
  add(samples, JS_TICKS, 'ours', after.ticks - before.ticks);
  add(samples, JS_SWITCHES, 'ours', after.switches - before.switches);
  await load;
  await guest.eventually('[ -s /tmp/disk-load ]');
}

/** With a disk of its own: a host that was lost and started again has none of before. */
async function measure(vmm: Vmm): Promise<void> {
  const subject = nameOf(vmm);
  await using network = await Network.make({});
  await using disk = await ScratchDisk.make(64, 'random');
  await using guest = await Guest.boot({
    ...{ vmm, cpus: 2, network, disks: [{ path: disk.path, format: 'raw' }] },
    programs: { ...IPERF, 'tcp-echo': echo, 'disk-load': diskLoad },
  });
  await serveIperf(guest);
  await guest.run('tcp-echo serve');
  const host = await guest.host.stage(echo);
  add(samples, PING, subject, await pingMicroseconds(network));
  const exchange = await network.run(`${host} ask 10.77.0.2 ${SECONDS}`);
  add(samples, EXCHANGE, subject, Number(exchange));
  for (const [measure, from] of [[TO_HOST, 'guest'] as const, [TO_GUEST, 'host'] as const]) {
    const bitsPerSecond = await iperf(network, { from, seconds: SECONDS });
    add(samples, measure, subject, microsecondsPerMib(bitsPerSecond));
  }
  if (vmm === product) await measureIdleness(guest, network);
}

const { peers, rounds, json } = benchArguments(process.argv.slice(2));
await passOnGuestImages();
await using host = await openHost();
for (let round = 0; round < rounds; round++)
  for (const vmm of vmms(peers)) await again(nameOf(vmm), () => measure(vmm));
report('net', samples, GOALS, json, await placeOf(host));
