import { expect, onTestFinished, test } from 'vitest';
import { Guest } from './support/guest.ts';
import { ScratchDisk } from './support/scratch-disk.ts';

const MIB = 2 ** 20;

test('a guest finds a disk with the limits, queues and serial that it should have', async () => {
  await using disk = await ScratchDisk.make(32);
  await using guest = await Guest.boot({
    cpus: 2,
    args: ['--disk', `path=${disk.path},num_queues=2,serial=S123`],
  });
  const files = ['size', 'ro', 'serial', 'queue/max_segments', 'queue/logical_block_size'];
  const more = ['queue/write_cache', 'queue/discard_max_bytes', 'queue/write_zeroes_max_bytes'];

  const found = await guest.run(
    `cd /sys/block/vda && for f in ${[...files, ...more].join(' ')}; do echo $(cat $f); done`,
  );
  const queues = await guest.run('ls /sys/block/vda/mq | wc -l');
  const { stdout: threads } = await guest.host.exec(`cat /proc/${guest.vmm.pid}/task/*/comm`);

  expect(found.split('\n')).toEqual([
    ...[`${(32 * MIB) / 512}`, '0', 'S123', '126', '512'],
    ...['write back', '2199023255040', '2199023255040'],
  ]);
  expect(queues.trim()).toBe('2');
  expect(threads.split('\n')).toEqual(expect.arrayContaining(['_disk0_q0', '_disk0_q1']));
});

test('the guest sets the cache mode', async () => {
  await using disk = await ScratchDisk.make(8);
  await using guest = await Guest.boot({ disks: [disk.path] });

  await guest.run('echo "write through" >/sys/block/vda/cache_type');

  expect(await guest.run('cat /sys/block/vda/cache_type')).toBe('write through');
  await guest.run('dd if=/dev/urandom of=/dev/vda bs=64k count=16 conv=fsync');
});

test('what is copied from disk to disk arrives, however the host does its I/O', async () => {
  const sync = '_disable_io_uring=on,_disable_aio=on';
  const ways = ['', 'direct=on', '_disable_io_uring=on', 'direct=on,_disable_io_uring=on', sync];
  await using source = await ScratchDisk.make(4, 'random');
  const disks = await Promise.all(ways.map(() => ScratchDisk.make(4)));
  onTestFinished(async () => {
    for (const disk of disks) await disk[Symbol.asyncDispose]();
  });
  const targets = disks.map(({ path }, i) => [`path=${path}`, ways[i]].filter(Boolean).join());
  await using guest = await Guest.boot({
    args: ['--disk', `path=${source.path},readonly=on`, ...targets],
  });

  // In pieces of 15 sectors, which no larger block divides.
  await guest.run(
    'for x in b c d e f; do ' +
      'dd if=/dev/vda of=/dev/vd$x bs=7680 iflag=direct oflag=direct conv=fsync; done',
    60_000,
  );
  const read = await guest.run(
    'for x in b c d e f; do dd if=/dev/vd$x bs=1M iflag=direct 2>/dev/null | sha256sum; done',
  );

  const expected = await source.imageSha256();
  expect(read.split('\n')).toEqual(ways.map(() => `${expected}  -`));
  for (const [i, disk] of disks.entries()) expect(await disk.imageSha256(), ways[i]).toBe(expected);
});

test('a discard gives the room back to the host, and reads as zeros', async () => {
  await using disk = await ScratchDisk.make(16, 'random');
  await using guest = await Guest.boot({ disks: [disk.path] });
  expect(await disk.usedKib()).toBeGreaterThan(15 * 1024);

  await guest.run('blkdiscard /dev/vda');

  expect(await disk.usedKib()).toBeLessThan(1024);
  expect(await guest.run('od -An -v -tx1 -N16 /dev/vda')).toBe(' 00'.repeat(16));
});

test('a read-only disk is one to the guest, and its image stays as it was', async () => {
  await using disk = await ScratchDisk.make(8, 'random');
  const before = await disk.imageSha256();
  await using guest = await Guest.boot({ args: ['--disk', `path=${disk.path},readonly=on`] });

  await guest.run('blockdev --setrw /dev/vda || true');
  const write = await guest.answer('dd if=/dev/zero of=/dev/vda bs=4k count=1 conv=fsync');

  expect(await guest.run('cat /sys/block/vda/ro')).toBe('1');
  expect(write.code).not.toBe(0);
  expect(await disk.imageSha256()).toBe(before);
});

test('the first sector of a raw image takes all but the header of another format', async () => {
  await using disk = await ScratchDisk.make(8);
  await using guest = await Guest.boot({ disks: [disk.path] });
  const put = (bytes: string) =>
    guest.answer(`printf '${bytes}' | dd of=/dev/vda bs=512 conv=sync,fsync`);

  expect(await put('\\353\\143\\220')).toMatchObject({ code: 0 }); // as boot loaders begin
  expect((await put('QFI\\373')).code).not.toBe(0);

  expect(await disk.start(4)).toBe('eb639000');
});
