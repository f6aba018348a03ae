/** File systems on disks, through all that may happen to their guest. */
import { expect, test } from 'vitest';
import { mustExec } from '../host/exec.ts';
import { apiConfig, startService } from './support/api-boot.ts';
import { Guest } from './support/guest.ts';
import { ScratchDisk } from './support/scratch-disk.ts';
import { QUIET } from './support/shell.ts';

const BOOT_TIMEOUT_MS = 90_000;

test('what a guest writes to ext4 is whole on the host after a power-off', async () => {
  await using disk = await ScratchDisk.make(64, 'ext4');
  await using guest = await Guest.boot({ disks: [disk.path] });

  await guest.run(
    'mount -t ext4 /dev/vda /mnt && dd if=/dev/urandom of=/mnt/data bs=64k count=256',
  );
  const [sum] = (await guest.run('sha256sum /mnt/data && umount /mnt')).split(' ');
  guest.console.type('poweroff\n');

  expect(await guest.exited).toBe(0);
  await disk.fsck();
  expect(await disk.sha256('data')).toBe(sum);
});

test('what was fsynced is there after the VMM was killed under load', async () => {
  await using disk = await ScratchDisk.make(64, 'ext4');
  await using guest = await Guest.boot({ cpus: 2, disks: [disk.path] });
  const contents = (i: string) => `yes ${i} | head -c 100000`;
  const save = `${contents('$i')} | dd of=/mnt/$i bs=100000 iflag=fullblock conv=fsync`;
  await guest.run('mount -t ext4 /dev/vda /mnt');
  await guest.run(
    `(while :; do cat /dev/urandom | head -c 4000000 >/mnt/noise; done) >/dev/null 2>&1 & ` +
      `(i=1; while ${save}; do echo "saved $i." >/dev/console; i=$((i+1)); done) >/dev/null 2>&1 &`,
  );
  await guest.waitFor('saved 20.', 60_000);

  guest.vmm.kill('SIGKILL');
  await guest.exited;

  const saved = [...guest.console.text.matchAll(/saved (\d+)\./g)].map(([, i = '']) => i);
  expect(saved.length).toBeGreaterThanOrEqual(20);
  await disk.fsck();
  for (const i of saved) {
    const expected = await mustExec(guest.host, `${contents(i)} | sha256sum`);
    expect(await disk.sha256(i), `file ${i}`).toBe(expected.split(' ')[0]);
  }
});

test('a driver that is unbound and bound again 20 times finds the disk as it was', async () => {
  await using disk = await ScratchDisk.make(8, 'random');
  await using guest = await Guest.boot({ disks: [disk.path] });
  const threads = async () =>
    (await mustExec(guest.host, `ls /proc/${guest.vmm.pid}/task | wc -l`)).trim();
  const before = await threads();
  const device = await guest.run('basename "$(readlink /sys/block/vda/device)"');
  const expected = await disk.imageSha256();

  const sums = await guest.run(
    `cd /sys/bus/virtio/drivers/virtio_blk && for i in $(seq 20); do ` +
      `echo ${device} >unbind; [ ! -e /dev/vda ] || echo stays; echo ${device} >bind; ` +
      'dd if=/dev/vda bs=1M 2>/dev/null | sha256sum; done',
    60_000,
  );

  expect(sums.split('\n')).toEqual(Array.from({ length: 20 }, () => `${expected}  -`));
  expect(await threads()).toBe(before);
});

test('a VM of 2020 keeps its disk over a reboot, the first sector too', async () => {
  await using disk = await ScratchDisk.make(8);
  await using guest = await startService();
  const config = await apiConfig(guest, { dialect: 'seed', kernel: 'vmlinux' });
  const ready = async () => {
    await guest.waitFor(/guest: ready.*\n/, BOOT_TIMEOUT_MS);
    guest.console.type(`${QUIET}\n`);
  };
  await guest.api.put('vm.create', { ...config, disks: [{ path: disk.path }] });
  expect((await guest.api.put('vm.boot')).status).toBe(204);
  await ready();

  await guest.run('echo "kept over the reboot" | dd of=/dev/vda bs=512 conv=sync,fsync');
  expect((await guest.api.put('vm.reboot')).status).toBe(204);
  await ready();

  expect(await guest.run('head -n 1 /dev/vda')).toBe('kept over the reboot');
  const header = await guest.answer("printf 'QFI\\373' | dd of=/dev/vda bs=512 conv=sync,fsync");
  expect(
    header.code,
    'of another format, which the type found at the boot still keeps out',
  ).not.toBe(0);
});
