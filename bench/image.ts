/**
 * qcow2: how many requests a second a Linux guest gets through, beside QEMU with an I/O thread and
 * io_uring: on clusters that are there, and on an empty image that each write makes larger.
 *
 *     npx tsx bench/image.ts [--peer NAME=PATH]... [--rounds N] [--json FILE]
 *
 * Runs where the end-to-end tests run (test/host). Subjects alternate within each round, each in a
 * guest of its own; images are in the host's page cache, so that the VMM is what is measured.
 */
import { passOnGuestImages } from '../guest-images/images.ts';
import { DiskImage } from '../test/e2e/support/disk-image.ts';
import { Guest } from '../test/e2e/support/guest.ts';
import { ScratchDisk } from '../test/e2e/support/scratch-disk.ts';
import { qemu, type Vmm } from '../test/e2e/support/vmm.ts';
import { openHost } from '../test/host/open-host.ts';
import { linuxProgram } from '../test/support/linux-program.ts';
import { again } from './support/again.ts';
import { placeOf } from './support/place.ts';
import { add, type Goal, report, type Samples } from './support/record.ts';
import { benchArguments } from './support/subjects.ts';
import { nameOf, vmms } from './support/vmms.ts';

const SECONDS = 2;
const DEPTH = 32;
const ALLOCATED_MIB = 256;
/** So large that hardly a cluster is written twice. */
const EMPTY_SIZE = '16G';

const READ = 'random read, 4 KiB, depth 32';
const WRITE = 'random write, 4 KiB, depth 32';
const FIRST = 'first write to a cluster, random, 4 KiB, depth 32';
const GOALS: Goal[] = [READ, WRITE, FIRST].map((measure) => ({ measure, limit: 1, times: 'qemu' }));

const samples: Samples = new Map();
const program = linuxProgram('bench/guest/disk-load.c');

const qemuArgs = (images: readonly DiskImage[]): string[] =>
  images.flatMap(({ disk: { path } }, i) => [
    ...['-object', `iothread,id=io${i}`],
    ...['-drive', `file=${path},if=none,id=disk${i},format=qcow2,aio=io_uring`],
    ...['-device', `virtio-blk-pci,drive=disk${i},iothread=io${i}`],
  ]);

async function measure(vmm: Vmm, allocated: DiskImage): Promise<void> {
  await using empty = await DiskImage.make('qcow2 of version 3', EMPTY_SIZE);
  const images = [allocated, empty];
  const disks = images.map(({ disk }) => disk);
  await using guest = await Guest.boot({
    ...(vmm === qemu ? { args: qemuArgs(images) } : { disks }),
    ...{ vmm, cpus: 2, programs: { 'disk-load': program } },
  });
  const load = async (measure: string, device: string, direction: string) => {
    const command = `disk-load /dev/${device} ${direction} random 4096 ${DEPTH} ${SECONDS}`;
    add(samples, measure, nameOf(vmm), 1e6 / Number(await guest.run(command)));
  };
  await load(READ, 'vda', 'read');
  await load(WRITE, 'vda', 'write');
  await load(FIRST, 'vdb', 'write');
}

const { peers, rounds, json } = benchArguments(process.argv.slice(2));
await passOnGuestImages();
await using host = await openHost();
await using raw = await ScratchDisk.make(ALLOCATED_MIB, 'random');
await using allocated = await DiskImage.make('qcow2 of version 3', raw.path);
for (let round = 0; round < rounds; round++)
  for (const vmm of vmms(peers)) await again(nameOf(vmm), () => measure(vmm, allocated));
console.log('Microseconds a request');
report('image', samples, GOALS, json, await placeOf(host));
