import { expect, test } from 'vitest';
import { mustExec } from '../host/exec.ts';
import { Guest } from './support/guest.ts';
import { ScratchDisk } from './support/scratch-disk.ts';

test('a file system on persistent memory is mounted with DAX, and its file has what it holds', async () => {
  await using disk = await ScratchDisk.make(64, 'ext4');
  await using guest = await Guest.boot({ args: ['--pmem', `file=${disk.path}`] });

  await guest.run('mount -t ext4 -o dax /dev/pmem0 /mnt && grep -q "pmem0.*dax" /proc/mounts');
  await guest.run('dd if=/dev/urandom of=/mnt/file bs=1M count=8 2>/dev/null && sync');
  const written = await guest.run('sha256sum </mnt/file && umount /mnt');

  expect(await disk.sha256('/file')).toBe(written.split(' ')[0]);
  await disk.fsck();
});

test('what a guest writes with discard_writes is gone with it', async () => {
  await using disk = await ScratchDisk.make(64, 'ext4');
  const before = await disk.imageSha256();
  await using guest = await Guest.boot({
    args: ['--pmem', `file=${disk.path},discard_writes=on`],
  });

  await guest.run('mount -t ext4 -o dax /dev/pmem0 /mnt && echo said >/mnt/file && sync');
  const read = await guest.run('umount /mnt && mount -o dax /dev/pmem0 /mnt && cat /mnt/file');

  expect(read).toBe('said');
  expect(await disk.imageSha256()).toBe(before);
});

test('a guest has its root on a partition of persistent memory', async () => {
  await using disk = await ScratchDisk.make(64);
  // One partition of Linux, of 60 MiB from 2 MiB on, as DAX wants it: a table of a single entry.
  const entry = Buffer.alloc(66);
  entry[4] = 0x83;
  entry.writeUInt32LE(4096, 8);
  entry.writeUInt32LE(60 * 2048, 12);
  entry.writeUInt16BE(0x55aa, 64);
  const table =
    `echo ${entry.toString('base64')} | base64 -d | ` +
    `dd of=${disk.path} bs=1 seek=446 conv=notrunc status=none`;
  const root = `${disk.path}.d`;
  const fill =
    `mkdir -p ${root}/etc && echo of the file >${root}/etc/motd && ` +
    `mke2fs -q -F -t ext4 -b 4096 -E offset=2097152 -d ${root} ${disk.path} 60M && rm -r ${root}`;
  await mustExec(disk.host, `${table} && ${fill}`);
  await using guest = await Guest.boot({ args: ['--pmem', `file=${disk.path}`] });

  // What an initramfs does that is told root=/dev/pmem0p1.
  await guest.run(
    'mount -t ext4 -o dax /dev/pmem0p1 /mnt && mkdir /mnt/bin && cp /bin/busybox /mnt/bin',
  );
  const seen = await guest.run('chroot /mnt /bin/busybox cat /etc/motd');

  expect(seen).toBe('of the file');
});
