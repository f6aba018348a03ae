/**
 * Devices of backends: how many requests a second a Linux guest gets through to a share of
 * virtiofsd and to a disk of qemu-storage-daemon, beside QEMU with the same backends.
 *
 *     npx tsx bench/vhost-user.ts [--rounds N] [--json FILE]
 *
 * Runs where the end-to-end tests run (test/host). Subjects alternate within each round, each with
 * a guest and backends of its own; file and image are in the host's page cache, and pass the guest's
 * by O_DIRECT.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import { passOnGuestImages } from '../guest-images/images.ts';
import { type Daemon, storageDaemon, virtiofsd } from '../test/e2e/support/daemon.ts';
import { Guest } from '../test/e2e/support/guest.ts';
import { ScratchDisk } from '../test/e2e/support/scratch-disk.ts';
import { product, qemu, type Vmm } from '../test/e2e/support/vmm.ts';
import { mustExec } from '../test/host/exec.ts';
import { openHost } from '../test/host/open-host.ts';
import { linuxProgram } from '../test/support/linux-program.ts';
import { again } from './support/again.ts';
import { jsThread } from './support/js-thread.ts';
import { placeOf } from './support/place.ts';
import { add, type Goal, report, type Samples } from './support/record.ts';
import { benchArguments } from './support/subjects.ts';
import { nameOf } from './support/vmms.ts';

const SIZE_MIB = 128;
const MEMORY = '512M';
const SECONDS = 2;
const STEADY_SECONDS = 5;
const QUEUE_SIZE = 1024;

const SHARE = '/mnt/file';
const DISK = '/dev/vda';

interface Load {
  name: string;
  on: string;
  /** What `disk-load` is told after that: direction, order, bytes, depth. */
  args: string;
}

const LOADS: Load[] = ['read', 'write'].flatMap((way) => [
  { name: `share, sequential ${way}, 1 MiB`, on: SHARE, args: `${way} sequential 1048576 1` },
  { name: `share, random ${way}, 4 KiB, depth 1`, on: SHARE, args: `${way} random 4096 1` },
  { name: `share, random ${way}, 4 KiB, depth 32`, on: SHARE, args: `${way} random 4096 32` },
  { name: `disk, random ${way}, 4 KiB, depth 64`, on: DISK, args: `${way} random 4096 64` },
]);

const JS_TICKS = `CPU ticks of the JS thread in ${STEADY_SECONDS} s of share and disk`;
const JS_SWITCHES = 'context switches of it';
const GOALS: Goal[] = LOADS.map(({ name }) => ({ measure: name, limit: 1, times: 'qemu' }));
GOALS.push({ measure: JS_TICKS, limit: 0 });

const samples: Samples = new Map();
const program = linuxProgram('bench/guest/disk-load.c');

/** The same shape of each device for both. */
const ARGS: Record<string, (share: Daemon, disk: Daemon) => string[]> = {
  [product.name]: (share, disk) => [
    ...['--fs', `tag=share,socket=${share.socket},queue_size=${QUEUE_SIZE}`],
    ...['--disk', `vhost_user=true,socket=${disk.socket}`],
  ],
  [qemu.name]: (share, disk) => [
    ...['-object', `memory-backend-memfd,id=ram,size=${MEMORY},share=on`],
    ...['-machine', 'memory-backend=ram'],
    ...['-chardev', `socket,id=share,path=${share.socket}`],
    ...['-device', `vhost-user-fs-pci,chardev=share,tag=share,queue-size=${QUEUE_SIZE}`],
    ...['-chardev', `socket,id=disk,path=${disk.socket}`],
    ...['-device', 'vhost-user-blk-pci,chardev=disk,num-queues=1'],
  ],
};

/** While both are read, and nobody types: that is for the JS thread to carry. */
async function measureIdleness(guest: Guest): Promise<void> {
  const load = (on: string) =>
    `disk-load ${on} read random 4096 32 ${STEADY_SECONDS + 4} >/dev/null`;
  const reading = guest.run(`${load(SHARE)} & ${load(DISK)}; wait`);
  await sleep(2000);
  const before = await jsThread(guest);
  await sleep(STEADY_SECONDS * 1000);
  const after = await jsThread(guest);
  add(samples, JS_TICKS, 'ours', after.ticks - before.ticks);
  add(samples, JS_SWITCHES, 'ours', after.switches - before.switches);
  await reading;
}

async function measure(vmm: Vmm, image: ScratchDisk): Promise<void> {
  await using share = await virtiofsd();
  await using disk = await storageDaemon(image.path);
  await mustExec(share.host, `cp ${image.path} ${share.folder}/share/file`);
  const args = ARGS[vmm.name]?.(share, disk) ?? [];
  const programs = { 'disk-load': program };
  await using guest = await Guest.boot({ vmm, cpus: 2, memory: MEMORY, args, programs });
  await guest.run('mount -t virtiofs share /mnt');
  for (const { name, on, args } of LOADS) {
    const perSecond = await guest.run(`disk-load ${on} ${args} ${SECONDS}`);
    add(samples, name, nameOf(vmm), 1e6 / Number(perSecond));
  }
  if (vmm === product) await measureIdleness(guest);
}

const { rounds, json } = benchArguments(process.argv.slice(2));
await passOnGuestImages();
await using host = await openHost();
await using image = await ScratchDisk.make(SIZE_MIB, 'random');
for (let round = 0; round < rounds; round++)
  for (const vmm of [product, qemu]) await again(nameOf(vmm), () => measure(vmm, image));
console.log('Microseconds a request');
report('vhost-user', samples, GOALS, json, await placeOf(host));
