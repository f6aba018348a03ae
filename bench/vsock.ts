/**
 * Vsock: what a stream carries between a Linux guest and its host, beside a Unix socket between two
 * programs of the host, and how long an answer takes, beside TCP over a network card of ours. And
 * both beside QEMU with vhost-vsock, where the host's kernel moves the bytes.
 *
 *     npx tsx bench/vsock.ts [--rounds N] [--json FILE]
 *
 * Runs where the end-to-end tests run (test/host), in a network namespace of its own. Subjects
 * alternate within each round, which has a guest of its own; one program is at all ends.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import { passOnGuestImages } from '../guest-images/images.ts';
import { Guest } from '../test/e2e/support/guest.ts';
import { Network } from '../test/e2e/support/network.ts';
import { qemu } from '../test/e2e/support/vmm.ts';
import { hostPort, ownPort, VSOCK_STREAM, Vsock } from '../test/e2e/support/vsock.ts';
import { openHost } from '../test/host/open-host.ts';
import { linuxProgram } from '../test/support/linux-program.ts';
import { again } from './support/again.ts';
import { jsThread } from './support/js-thread.ts';
import { placeOf } from './support/place.ts';
import { add, type Goal, report, type Samples } from './support/record.ts';
import { benchArguments } from './support/subjects.ts';

const SECONDS = 3;
const STEADY_SECONDS = 5;
const PORT = 7000;
const ECHO_PORT = 7001;

const TO_HOST = 'stream, guest to host, µs a MiB';
const TO_GUEST = 'stream, host to guest, µs a MiB';
const EXCHANGE = 'request and response, µs';
const JS_TICKS = `CPU ticks of the JS thread in ${STEADY_SECONDS} s of it`;
const JS_SWITCHES = 'context switches of it';

const UNIX = 'AF_UNIX on the host';
const TCP = 'TCP by virtio-net';
const VHOST = 'vhost-vsock of the kernel';

const GOALS: Goal[] = [
  { measure: TO_HOST, limit: 3.33, times: UNIX },
  { measure: TO_GUEST, limit: 3.33, times: UNIX },
  { measure: EXCHANGE, limit: 1, times: TCP },
  { measure: JS_TICKS, limit: 0 },
];

const samples: Samples = new Map();
const tcpEcho = linuxProgram('bench/guest/tcp-echo.c');

/** Where programs of the host listen for the guest, and where they reach it. */
interface HostEnds {
  listen(port: number): string;
  connect(port: number): string;
}

/** Both ends at once; the host's tells how it went. */
async function measureStreams(
  subject: string,
  guest: Guest,
  vsock: Vsock,
  ends: HostEnds,
): Promise<void> {
  const [toHost] = await Promise.all([
    vsock.run(`receive ${ends.listen(PORT)}`),
    guest.run(`vsock-stream send ${hostPort(PORT)} ${SECONDS}`),
  ]);
  add(samples, TO_HOST, subject, Number(toHost));
  const [toGuest] = await Promise.all([
    vsock.run(`send ${ends.connect(PORT)} ${SECONDS}`),
    guest.run(`vsock-stream receive ${ownPort(PORT)}`),
  ]);
  add(samples, TO_GUEST, subject, Number(toGuest));
  await guest.run(`vsock-stream echo ${ownPort(ECHO_PORT)}`);
  const exchange = await vsock.run(`ask ${ends.connect(ECHO_PORT)} ${SECONDS}`);
  add(samples, EXCHANGE, subject, Number(exchange));
}

async function measureUnix(vsock: Vsock): Promise<void> {
  const address = vsock.ownPort(PORT);
  const [received, sent] = await Promise.all([
    vsock.run(`receive ${address}`),
    vsock.run(`send ${address} ${SECONDS}`),
  ]);
  add(samples, TO_HOST, UNIX, Number(received));
  add(samples, TO_GUEST, UNIX, Number(sent));
}

async function measureTcp(guest: Guest, network: Network): Promise<void> {
  const tcp = await guest.host.stage(tcpEcho);
  await guest.run('tcp-echo serve');
  const theirs = await network.run(`${tcp} ask ${network.nics[0]?.guestAddress} ${SECONDS}`);
  add(samples, EXCHANGE, TCP, Number(theirs));
}

/** While data goes both ways, and nobody types: that is for the JS thread to carry. */
async function measureIdleness(guest: Guest, vsock: Vsock): Promise<void> {
  const seconds = STEADY_SECONDS + 4;
  const address = vsock.ownPort(PORT);
  await guest.run(`vsock-stream echo ${ownPort(ECHO_PORT + 1)}`);
  const load = Promise.all([
    vsock.run(`ask ${vsock.guestPort(ECHO_PORT + 1)} ${seconds}`),
    vsock.run(`receive ${address}`),
    guest.run(`vsock-stream send ${hostPort(PORT)} ${seconds}`),
  ]);
  await sleep(2000);
  const before = await jsThread(guest);
  await sleep(STEADY_SECONDS * 1000);
  const after = await jsThread(guest);
  add(samples, JS_TICKS, 'ours', after.ticks - before.ticks);
  add(samples, JS_SWITCHES, 'ours', after.switches - before.switches);
  await load;
}

async function measure(): Promise<void> {
  await using network = await Network.make({});
  await using vsock = await Vsock.make();
  await using guest = await Guest.boot({
    ...{ cpus: 2, network, args: vsock.args },
    programs: { ...VSOCK_STREAM, 'tcp-echo': tcpEcho },
  });
  const ends = {
    listen: (port: number) => vsock.ownPort(port),
    connect: (port: number) => vsock.guestPort(port),
  };
  await measureStreams('ours', guest, vsock, ends);
  await measureUnix(vsock);
  await measureTcp(guest, network);
  await measureIdleness(guest, vsock);
}

async function measureVhost(): Promise<void> {
  await using vsock = await Vsock.make(); // for its program alone
  await using guest = await Guest.boot({
    ...{ vmm: qemu, cpus: 2, args: ['-device', 'vhost-vsock-pci,guest-cid=3'] },
    programs: VSOCK_STREAM,
  });
  await measureStreams(VHOST, guest, vsock, { listen: hostPort, connect: ownPort });
}

const { rounds, json } = benchArguments(process.argv.slice(2));
await passOnGuestImages();
await using host = await openHost();
for (let round = 0; round < rounds; round++) {
  await again('ours', measure);
  await again(VHOST, measureVhost);
}
report('vsock', samples, GOALS, json, await placeOf(host));
