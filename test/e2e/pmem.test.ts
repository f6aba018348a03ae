import { expect, test } from 'vitest';
import { mustExec } from '../host/exec.ts';
import { Guest } from './support/guest.ts';
import { ScratchDisk } from './support/scratch-disk.ts';

test('a file system on persistent memory is mounted with DAX, and its file has what it holds', async () => {
  await using disk = await ScratchDisk.make(64, 'ext4');
  await using guest = await Guest.boot({ args: ['--pmem', `file=${disk.path}`] });

  await guest.run('mount -t ext4 -o dax /dev/pmem0 /mnt && grep -q "pmem0.*dax" /proc/mounts');
  await guest.run('head -c 8M /dev/urandom >/mnt/file && sync');
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
  // One partition from 2 MiB on, as DAX wants it; a shell of its own is all that is in it.
  const table = `printf '4096,,L\\n' | sfdisk -q ${disk.path}`;
  const root = `${disk.path}.d`;
  const fill =
    `mkdir -p ${root}/bin ${root}/mnt && cp /bin/busybox ${root}/bin/ && ` +
    `mke2fs -q -t ext4 -E offset=2097152 -d ${root} ${disk.path} 60M; rm -r ${root}`;
  await mustExec(disk.host, `${table} && ${fill}`);
  await using guest = await Guest.boot({ args: ['--pmem', `file=${disk.path}`] });

  await guest.run('mount -t ext4 -o dax /dev/pmem0p1 /mnt');

  expect(await guest.run('chroot /mnt /bin/busybox ls /')).toBe('bin\nlost+found\nmnt');
});
