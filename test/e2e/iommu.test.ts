/** Linux with its devices behind a virtio-iommu. */
import { expect, test } from 'vitest';
import { Guest } from './support/guest.ts';
import { Network } from './support/network.ts';
import { ScratchDisk } from './support/scratch-disk.ts';
import { stream, TCP_STREAM } from './support/tcp-stream.ts';

const MIB = 2 ** 20;
const TEST_TIMEOUT_MS = 300_000;

/** The functions that are in groups of the IOMMU. */
const GROUPS = 'ls /sys/kernel/iommu_groups/*/devices | grep : | grep -v / | sort';

test('disk, card and random numbers work behind the IOMMU', {
  timeout: TEST_TIMEOUT_MS,
}, async () => {
  await using network = await Network.make({ settings: 'iommu=on' });
  await using disk = await ScratchDisk.make(64, 'random');
  await using guest = await Guest.boot({
    ...{ hasIommu: true, cpus: 2, network, programs: TCP_STREAM },
    disks: [{ path: disk.path, format: 'raw', settings: 'iommu=on' }],
    args: ['--rng', 'src=/dev/urandom,iommu=on'],
  });

  const functions = await guest.run(GROUPS);
  expect(functions.split('\n')).toEqual([1, 2, 3].map((slot) => `0000:00:0${slot}.0`));
  const sum = await guest.run('dd if=/dev/vda bs=64k iflag=direct 2>/dev/null | sha256sum');
  expect(sum.split(' ')[0]).toBe(await disk.imageSha256());
  await stream(network, guest, 'guest', 64 * MIB);
  await stream(network, guest, 'host', 64 * MIB);
});
