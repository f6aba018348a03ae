/** Devices that another process serves: a disk of qemu-storage-daemon, a share of virtiofsd. */
import { expect, test } from 'vitest';
import { MIB } from '../../src/bytes.ts';
import { mustExec } from '../host/exec.ts';
import { type Daemon, storageDaemon, virtiofsd } from './support/daemon.ts';
import { Guest } from './support/guest.ts';
import { ScratchDisk } from './support/scratch-disk.ts';

const diskOf = ({ socket }: Daemon) => ['--disk', `vhost_user=true,socket=${socket}`];
const shareOf = ({ socket }: Daemon) => ['--fs', `tag=share,socket=${socket}`];

test('what a guest writes to a disk of a daemon is in its image, over a pause and a resume', async () => {
  await using disk = await ScratchDisk.make(64, 'ext4');
  await using daemon = await storageDaemon(disk.path);
  await using guest = await Guest.boot({ cpus: 2, args: diskOf(daemon) });

  await guest.run('mount -t ext4 /dev/vda /mnt');
  await guest.run('dd if=/dev/urandom of=/mnt/a bs=64k count=256 2>/dev/null && sync');
  expect((await guest.api.put('vm.pause')).status).toBe(204);
  expect((await guest.api.put('vm.resume')).status).toBe(204);
  await guest.run('cp /mnt/a /mnt/b && sync && echo 3 >/proc/sys/vm/drop_caches');
  const [sum] = (await guest.run('sha256sum /mnt/b')).split(' ');
  await guest.run('umount /mnt');

  expect(await disk.sha256('a')).toBe(sum);
  await disk.fsck();
});

test('a guest goes on after its idle daemon was killed and started again', async () => {
  await using disk = await ScratchDisk.make(8, 'random');
  await using daemon = await storageDaemon(disk.path);
  await using guest = await Guest.boot({ args: diskOf(daemon) });
  const expected = await disk.imageSha256();
  await guest.run('dd if=/dev/vda bs=1M count=2 iflag=direct >/dev/null 2>&1');

  for (let i = 1; i <= 3; i++) {
    await daemon.kill();
    await daemon.start();
    const sum = await guest.run('dd if=/dev/vda bs=1M iflag=direct 2>/dev/null | sha256sum');

    expect(sum.split(' ')[0]).toBe(expected);
    expect((await guest.api.get('vm.counters')).json).toMatchObject({ _disk0: { reconnects: i } });
  }
});

test('what was flushed is there after the daemon was killed under load, and the VM lives', async () => {
  await using disk = await ScratchDisk.make(64, 'ext4');
  await using daemon = await storageDaemon(disk.path);
  await using guest = await Guest.boot({ cpus: 2, args: diskOf(daemon) });
  const contents = (i: string) => `yes ${i} | head -c 100000`;
  const save = `${contents('$i')} | dd of=/mnt/$i bs=100000 iflag=fullblock conv=fsync`;
  await guest.run('mount -t ext4 /dev/vda /mnt');
  await guest.run(
    `(i=1; while ${save}; do echo "saved $i." >/dev/console; i=$((i+1)); done) >/dev/null 2>&1 &`,
  );
  await guest.waitFor('saved 20.', 60_000);

  await daemon.kill();
  const saved = [...guest.console.text.matchAll(/saved (\d+)\./g)].map(([, i = '']) => i);
  await daemon.start();

  expect(saved.length).toBeGreaterThanOrEqual(20);
  await expect
    .poll(async () => (await guest.api.get('vm.counters')).json)
    .toMatchObject({
      _disk0: { reconnects: 1 },
    });
  expect((await guest.api.put('vm.shutdown')).status).toBe(204);
  await disk.fsck();
  for (const i of saved) {
    const expected = await mustExec(guest.host, `${contents(i)} | sha256sum`);
    expect(await disk.sha256(i), `file ${i}`).toBe(expected.split(' ')[0]);
  }
});

test('two shares with windows are found, and mounted without using them', async () => {
  await using first = await virtiofsd();
  await using second = await virtiofsd();
  await mustExec(first.host, `echo first >${first.folder}/share/name`);
  await mustExec(first.host, `echo second >${second.folder}/share/name`);
  const share = (tag: string, { socket }: Daemon, size: string) =>
    `tag=${tag},sock=${socket},dax=on,cache_size=${size}`;
  // Linux makes memory of them, which takes a minute for 8 GiB in an emulated host.
  const args = ['--fs', share('a', first, '256M'), share('b', second, '128M')];
  await using guest = await Guest.boot({ args });

  const windows = await guest.run('cat /sys/bus/pci/devices/*/resource | grep 14220c$');
  const sizes = windows.split('\n').map((line) => {
    const [start, end] = line.split(' ').map(Number);
    return (end ?? 0) - (start ?? 0) + 1;
  });
  expect(sizes).toEqual([256 * MIB, 128 * MIB]); // memory of 64 bits, prefetchable
  await guest.run('mkdir /a /b && mount -t virtiofs a /a && mount -t virtiofs b /b');
  expect(await guest.run('cat /a/name /b/name')).toBe('first\nsecond');
});

test('a share is one file system for host and guest', async () => {
  await using daemon = await virtiofsd();
  const { host } = daemon;
  const share = `${daemon.folder}/share`;
  await mustExec(host, `echo of the host >${share}/host`);
  await using guest = await Guest.boot({ args: shareOf(daemon) });
  const both = async (file: string) => {
    const seen = await mustExec(host, `sha256sum <${share}/${file}`);
    expect(await guest.run(`sha256sum </mnt/${file}`), file).toBe(seen.trim());
  };

  await guest.run('mount -t virtiofs share /mnt');
  expect(await guest.run('cat /mnt/host')).toBe('of the host');
  await guest.run('dd if=/dev/urandom of=/mnt/big bs=64k count=64 2>/dev/null && sync');
  await both('big');

  await guest.run('cd /mnt && echo old >a && exec 3<a && echo new >b && mv b a && cat <&3 >was');
  expect(await mustExec(host, `cat ${share}/was ${share}/a`)).toBe('old\nnew\n');
  await guest.run('cd /mnt && echo gone >u && exec 4<u && rm u && cat <&4 >unlinked');
  expect(await mustExec(host, `cat ${share}/unlinked; ls ${share}/u 2>&1 || true`)).toMatch(
    /^gone\n.*No such file/,
  );
  await guest.run('cd /mnt && ln a link && echo more >>link && [ a -ef link ]');
  expect(await mustExec(host, `cat ${share}/a && stat -c %h ${share}/a`)).toBe('new\nmore\n2\n');
  await guest.run('cd /mnt && fallocate -l 1048576 room && echo x | dd of=room conv=notrunc');
  expect(await mustExec(host, `stat -c %s ${share}/room`)).toBe('1048576\n');
  await both('room');
  await mustExec(host, `echo changed by the host >${share}/host`);
  await guest.eventually('grep -q changed /mnt/host');
  await guest.run('umount /mnt');
});
