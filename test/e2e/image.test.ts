/** Disk images of every format, between a guest and qemu-img. */
import { expect, onTestFinished, test } from 'vitest';
import { mustExec } from '../host/exec.ts';
import { DiskImage, VARIANTS, type VariantName } from './support/disk-image.ts';
import { Guest } from './support/guest.ts';
import { ScratchDisk } from './support/scratch-disk.ts';

const NAMES = Object.keys(VARIANTS) as VariantName[];
const letter = (index: number): string => String.fromCharCode('b'.charCodeAt(0) + index);

/** Images for one test, which are gone after it. */
async function images(names: readonly VariantName[], contents: string): Promise<DiskImage[]> {
  const made = await Promise.all(names.map((name) => DiskImage.make(name, contents)));
  onTestFinished(async () => {
    for (const image of made) await image[Symbol.asyncDispose]();
  });
  return made;
}

async function powerOff(guest: Guest): Promise<void> {
  guest.console.type('poweroff\n');
  expect(await guest.exited).toBe(0);
}

test('a guest reads what qemu-img wrote, and qemu-img what the guest wrote', async () => {
  await using raw = await ScratchDisk.make(1, 'random');
  await mustExec(raw.host, `truncate -s 3M ${raw.path}`); // and most of it is not there
  const made = await images(NAMES, raw.path);
  await using guest = await Guest.boot({
    cpus: 2,
    disks: [{ path: raw.path, format: 'raw' }, ...made.map(({ disk }) => disk)],
  });
  const all = `/dev/vd[a-${letter(NAMES.length - 1)}]`;
  const sums = async () =>
    (await guest.run(`for d in ${all}; do md5sum <$d; done`, 60_000)).split('\n');
  const same = (sum: string | undefined) => [raw, ...NAMES].map(() => sum);
  const original = await mustExec(raw.host, `md5sum <${raw.path}`);

  expect(await sums()).toEqual(same(original.trim()));

  // Over what is there and what is not, at ends of blocks and clusters and far from them.
  await guest.run(
    `head -c 400000 /dev/urandom >/tmp/data && for d in ${all}; do for place in ` +
      '"bs=7680 seek=33 count=40" "bs=512 seek=4091 count=9" "bs=64k seek=43 count=5" ' +
      '"bs=4k seek=255 count=2"; do dd if=/tmp/data of=$d $place oflag=direct; done; sync $d; done',
    60_000,
  );
  const [written, ...others] = await sums();
  await powerOff(guest);

  expect(written).not.toBe(original.trim());
  expect([written, ...others]).toEqual(same(written));
  const converted = made.map(async (image) => {
    await image.check();
    return (await mustExec(image.host, `md5sum <${await image.convert()}`)).trim();
  });
  expect(await Promise.all(converted)).toEqual(NAMES.map(() => written));
});

test('a file system that a guest makes on an image that grows is whole', async () => {
  const names = ['qcow2 of version 3', 'dynamic VHD', 'dynamic VHDX'] as const;
  const made = await images(names, '48M');
  await using guest = await Guest.boot({
    disks: made.map(({ disk }) => disk),
    programs: { 'mkfs.ext4': '/usr/sbin/mke2fs' },
  });

  const sums = await guest.run(
    'for x in a b c; do mkfs.ext4 -q /dev/vd$x && mount /dev/vd$x /mnt && ' +
      'head -c 9m /dev/urandom >/mnt/file && md5sum </mnt/file && umount /mnt; done',
    60_000,
  );
  await powerOff(guest);

  for (const [i, image] of made.entries()) {
    await image.check();
    const raw = await image.convert();
    await mustExec(image.host, `e2fsck -fn ${raw}`);
    const sum = await mustExec(image.host, `debugfs -R 'cat file' ${raw} | md5sum`);
    expect(sum.trim(), names[i]).toBe(sums.split('\n')[i]);
  }
});

test('a discard gives room of a qcow2 image back to the host', async () => {
  await using raw = await ScratchDisk.make(16, 'random');
  const [image] = await images(['qcow2 of version 3'], raw.path);
  if (!image) throw new Error('There is no image');
  await using guest = await Guest.boot({ disks: [image.disk] });
  expect(await image.usedKib()).toBeGreaterThan(16 * 1024);

  await guest.run('blkdiscard -o 0 -l 15M /dev/vda && sync /dev/vda');

  expect(await image.usedKib()).toBeLessThan(2 * 1024);
  expect(await guest.run('od -An -v -tx1 -N16 /dev/vda')).toBe(' 00'.repeat(16));
  await powerOff(guest);
  await image.check();
  await mustExec(image.host, `cmp -i 15M ${raw.path} ${await image.convert()}`);
});
