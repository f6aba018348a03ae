/**
 * Persistent memory: how long a Linux guest takes to mount an ext4 of 256 MiB and to read what is
 * in it, with DAX, beside the same file system on a disk of ours.
 *
 *     npx tsx bench/pmem.ts [--rounds N] [--json FILE]
 *
 * Runs where the end-to-end tests run (test/host). Each round has a guest of its own, with the
 * image and a copy of it, both in the host's page cache; the guest has nothing of them in its own.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import { passOnGuestImages } from '../guest-images/images.ts';
import { Guest } from '../test/e2e/support/guest.ts';
import { ScratchDisk } from '../test/e2e/support/scratch-disk.ts';
import { mustExec } from '../test/host/exec.ts';
import { openHost } from '../test/host/open-host.ts';
import { jsThread } from './support/js-thread.ts';
import { placeOf } from './support/place.ts';
import { add, type Goal, report, type Samples } from './support/record.ts';
import { benchArguments } from './support/subjects.ts';

const IMAGE_MIB = 256;
const FILE_MIB = 200;
const STEADY_SECONDS = 3;

const MOUNT = 'mount, ms';
const READ = `first read of ${FILE_MIB} MiB, ms`;
const READ_AGAIN = 'second read, ms';
const JS_TICKS = 'CPU ticks of the JS thread while it is read from memory';

const DISK = 'virtio-blk of ours';
const GOALS: Goal[] = [{ measure: JS_TICKS, limit: 0 }];

const samples: Samples = new Map();

/** Hundredths of a second is what a shell can tell of the time. */
const UPTIME = 'cut -d" " -f1 /proc/uptime';
const READ_ALL = 'dd if=/mnt/file of=/dev/null bs=1M 2>/dev/null';

/** Read-only, so that the images stay the same; a journal is there, but has nothing in it. */
async function measureMount(guest: Guest, subject: string, mount: string): Promise<void> {
  const steps = [`mount -t ext4 ${mount} /mnt`, READ_ALL, READ_ALL];
  const times = await guest.run(
    `${UPTIME}; ${steps.map((step) => `${step} && ${UPTIME}`).join(' && ')}`,
  );
  await guest.run('umount /mnt');
  const at = times.split('\n').map((seconds) => 1000 * Number(seconds));
  [MOUNT, READ, READ_AGAIN].forEach((measure, step) => {
    add(samples, measure, subject, (at[step + 1] ?? Number.NaN) - (at[step] ?? Number.NaN));
  });
}

/** While all of it is read again and again; nobody types: that is for the JS thread to carry. */
async function measureIdleness(guest: Guest): Promise<void> {
  const seconds = 'cut -d. -f1 /proc/uptime';
  const readOn = `until [ $(${seconds}) -ge $end ]; do ${READ_ALL}; done`;
  const reading = guest.run(
    `mount -t ext4 -o ro,dax /dev/pmem0 /mnt; end=$(($(${seconds}) + ${STEADY_SECONDS + 3})); ` +
      `${readOn}; umount /mnt`,
    (STEADY_SECONDS + 60) * 1000,
  );
  await sleep(1000);
  const before = await jsThread(guest);
  await sleep(STEADY_SECONDS * 1000);
  const after = await jsThread(guest);
  add(samples, JS_TICKS, 'ours', after.ticks - before.ticks);
  await reading;
}

async function measure(image: ScratchDisk, copy: ScratchDisk): Promise<void> {
  await mustExec(image.host, `cat ${image.path} ${copy.path} >/dev/null`);
  await using guest = await Guest.boot({
    ...{ cpus: 2, args: ['--pmem', `file=${image.path}`] },
    disks: [{ path: copy.path, format: 'raw' }],
  });
  await measureMount(guest, 'ours', '-o ro,dax /dev/pmem0');
  await measureMount(guest, DISK, '-o ro /dev/vda');
  await measureIdleness(guest);
}

const { rounds, json } = benchArguments(process.argv.slice(2));
await passOnGuestImages();
await using host = await openHost();
await using image = await ScratchDisk.make(IMAGE_MIB, 'ext4');
await using copy = await ScratchDisk.make(IMAGE_MIB);
await mustExec(
  image.host,
  `mkdir ${image.path}.d && head -c ${FILE_MIB}M /dev/urandom >${image.path}.d/file && ` +
    `mke2fs -q -F -t ext4 -b 4096 -d ${image.path}.d ${image.path} && rm -r ${image.path}.d && ` +
    `cp ${image.path} ${copy.path}`,
);
for (let round = 0; round < rounds; round++) await measure(image, copy);
report('pmem', samples, GOALS, json, await placeOf(host));
