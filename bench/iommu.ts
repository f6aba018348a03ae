/**
 * What it costs a disk and a card to be behind a virtio-iommu: Linux maps what a request touches
 * before it, and unmaps it after it. Beside QEMU, whose device is the same.
 *
 *     npx tsx bench/iommu.ts [--rounds N] [--json FILE]
 *
 * Runs where the end-to-end tests run (test/host), in a network namespace of its own. In each round
 * each subject boots a guest with and one without, and the ratio of their times is what counts.
 */
import { passOnGuestImages } from '../guest-images/images.ts';
import { Guest } from '../test/e2e/support/guest.ts';
import { IPERF, iperf, serveIperf } from '../test/e2e/support/iperf.ts';
import { Network } from '../test/e2e/support/network.ts';
import { ScratchDisk } from '../test/e2e/support/scratch-disk.ts';
import { product, qemu, type Vmm } from '../test/e2e/support/vmm.ts';
import { openHost } from '../test/host/open-host.ts';
import { linuxProgram } from '../test/support/linux-program.ts';
import { again } from './support/again.ts';
import { placeOf } from './support/place.ts';
import { add, type Goal, report, type Samples } from './support/record.ts';
import { benchArguments } from './support/subjects.ts';
import { nameOf } from './support/vmms.ts';

const SECONDS = 3;

/** By what `disk-load` is told. */
const DISK_LOADS = {
  'random read, 4 KiB, depth 1': 'read random 4096 1',
  'random read, 4 KiB, depth 32': 'read random 4096 32',
  'random write, 4 KiB, depth 32': 'write random 4096 32',
  'sequential read, 128 KiB, depth 4': 'read sequential 131072 4',
};
const EXCHANGE = 'TCP request and response';
const STREAMS = { 'TCP, guest to host': 'guest', 'TCP, host to guest': 'host' } as const;

const LOADS = [...Object.keys(DISK_LOADS), EXCHANGE, ...Object.keys(STREAMS)];
const ratio = (load: string): string => `${load}, times as long`;
const GOALS: Goal[] = LOADS.map((load) => ({ measure: ratio(load), limit: 1, times: 'qemu' }));

const samples: Samples = new Map();
const programs = {
  ...IPERF,
  'disk-load': linuxProgram('bench/guest/disk-load.c'),
  'tcp-echo': linuxProgram('bench/guest/tcp-echo.c'),
};

/** What puts a guest's disk and card behind an IOMMU. */
const QEMU_IOMMU = [
  ...['-device', 'virtio-iommu-pci'],
  ...['virtio-blk-pci', 'virtio-net-pci'].flatMap((device) => [
    ...['-global', `${device}.iommu_platform=on`, '-global', `${device}.disable-legacy=on`],
  ]),
];

async function boot(vmm: Vmm, isBehind: boolean, network: Network, path: string): Promise<Guest> {
  const settings = isBehind && vmm === product ? { settings: 'iommu=on' } : {};
  return await Guest.boot({
    ...{ vmm, network, programs, hasIommu: true, cpus: 2 },
    disks: [{ path, format: 'raw', ...settings }],
    args: isBehind && vmm === qemu ? QEMU_IOMMU : [],
  });
}

/** @returns how long the unit of each load took, in whatever unit. */
async function measure(vmm: Vmm, isBehind: boolean): Promise<Map<string, number>> {
  const times = new Map<string, number>();
  const settings = isBehind && vmm === product ? 'iommu=on' : '';
  await using network = await Network.make({ settings });
  await using disk = await ScratchDisk.make(64, 'random');
  await using guest = await boot(vmm, isBehind, network, disk.path);
  for (const [load, args] of Object.entries(DISK_LOADS))
    times.set(load, 1e6 / Number(await guest.run(`disk-load /dev/vda ${args} ${SECONDS}`)));
  await guest.run('tcp-echo serve');
  await serveIperf(guest);
  const echo = await guest.host.stage(programs['tcp-echo']);
  times.set(EXCHANGE, Number(await network.run(`${echo} ask 10.77.0.2 ${SECONDS}`)));
  for (const [load, from] of Object.entries(STREAMS))
    times.set(load, (8 * 2 ** 20 * 1e6) / (await iperf(network, { from, seconds: SECONDS })));
  return times;
}

const { rounds, json } = benchArguments(process.argv.slice(2));
await passOnGuestImages();
await using host = await openHost();
for (let round = 0; round < rounds; round++)
  for (const vmm of [product, qemu]) {
    const name = nameOf(vmm);
    const without = await again(name, () => measure(vmm, false));
    const behind = await again(name, () => measure(vmm, true));
    for (const load of LOADS) {
      const [before = Number.NaN, after = Number.NaN] = [without.get(load), behind.get(load)];
      add(samples, `${load}, µs`, name, before);
      add(samples, `${load}, µs behind the IOMMU`, name, after);
      add(samples, ratio(load), name, after / before);
    }
  }
report('iommu', samples, GOALS, json, await placeOf(host));
