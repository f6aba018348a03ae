/** Linux with its devices behind a virtio-iommu. */
import { expect, test } from 'vitest';
import { Guest } from './support/guest.ts';
import { Network } from './support/network.ts';
import { ScratchDisk } from './support/scratch-disk.ts';
import { stream, TCP_STREAM } from './support/tcp-stream.ts';

const TEST_TIMEOUT_MS = 600_000;

/** The functions that are in groups of the IOMMU. */
const GROUPS = 'ls /sys/kernel/iommu_groups/*/devices | grep : | grep -v / | sort';

test('disk, card and random numbers work behind the IOMMU', {
  timeout: TEST_TIMEOUT_MS,
}, async () => {
  await using network = await Network.make({ settings: 'iommu=on' });
  await using disk = await ScratchDisk.make(2, 'random');
  await using guest = await Guest.boot({
    ...{ hasIommu: true, cpus: 2, network },
    disks: [{ path: disk.path, format: 'raw', settings: 'iommu=on' }],
    args: ['--rng', 'src=/dev/urandom,iommu=on'],
  });

  const functions = await guest.run(GROUPS);
  expect(functions.split('\n')).toEqual([1, 2, 3].map((slot) => `0000:00:0${slot}.0`));
  const sum = await guest.run('dd if=/dev/vda bs=64k iflag=direct 2>/dev/null | sha256sum');
  expect(sum.split(' ')[0]).toBe(await disk.imageSha256());
  await network.run('ping -c 3 -i 0.2 -W 10 -s 1400 10.77.0.2');
});

test('a disk is plugged into a segment behind the IOMMU, removed, and plugged again', {
  timeout: TEST_TIMEOUT_MS,
}, async () => {
  await using first = await ScratchDisk.make(2, 'random');
  await using added = await ScratchDisk.make(2, 'random');
  await using guest = await Guest.boot({
    hasIommu: true,
    disks: [{ path: first.path, format: 'raw', settings: 'pci_segment=1,iommu=on' }],
    args: ['--platform', 'num_pci_segments=2,iommu_segments=[1],iommu_address_width=40'],
  });
  const { api } = guest;
  expect(await guest.run(GROUPS)).toBe('0001:00:01.0');
  expect(await guest.run('dmesg | grep "input address"')).toContain('40 bits');

  const config = { id: 'more', path: added.path, iommu: true, image_type: 'Raw' };
  const refused = await api.put('vm.add-disk', config);
  expect([refused.status, JSON.stringify(refused.json)]).toEqual([
    400,
    expect.stringContaining('Cannot hotplug device behind vIOMMU'),
  ]);
  for (const _ of ['once', 'again']) {
    const answer = await api.put('vm.add-disk', { ...config, pci_segment: 1 });
    expect(answer).toMatchObject({ status: 200, json: { bdf: '0001:00:02.0' } });
    const [name] = (
      await guest.eventually('ls /sys/bus/pci/devices/0001:00:02.0/virtio*/block | grep vd')
    ).split('\n');
    expect(await guest.run(GROUPS)).toBe('0001:00:01.0\n0001:00:02.0');
    const sum = await guest.run(`dd if=/dev/${name} bs=64k iflag=direct 2>/dev/null | sha256sum`);
    expect(sum.split(' ')[0]).toBe(await added.imageSha256());
    expect((await api.put('vm.remove-device', { id: 'more' })).status).toBe(204);
    await guest.eventually('test ! -e /sys/bus/pci/devices/0001:00:02.0');
    await expect
      .poll(async () => JSON.stringify((await api.get('vm.info')).json), { timeout: 30_000 })
      .not.toContain('_virtio-pci-more');
  }
  await guest.run('dd if=/dev/vda of=/dev/null bs=64k iflag=direct 2>&1');
});

const KIB = 1024;
/** Each page costs a round trip to the VMM, for which the vCPU waits and lets nobody else run. */
const TCP_BYTES = 128 * KIB;

test.each([
  ['iommu.strict=1', 'policy: strict', 'DMA'],
  ['iommu.passthrough=1', 'type: Passthrough', 'identity'],
])('disk and card work with %s', { timeout: TEST_TIMEOUT_MS }, async (cmdline, said, type) => {
  await using network = await Network.make({ settings: 'iommu=on' });
  await using disk = await ScratchDisk.make(2, 'random');
  await using guest = await Guest.boot({
    ...{ hasIommu: true, network, cmdline, programs: TCP_STREAM },
    disks: [{ path: disk.path, format: 'raw', settings: 'iommu=on' }],
  });

  expect(await guest.run('dmesg | grep "iommu: "')).toContain(said);
  expect(await guest.run('sort -u /sys/kernel/iommu_groups/*/type')).toBe(type);
  const sum = await guest.run('dd if=/dev/vda bs=64k iflag=direct 2>/dev/null | sha256sum');
  expect(sum.split(' ')[0]).toBe(await disk.imageSha256());
  for (const from of ['guest', 'host'] as const) await stream(network, guest, from, TCP_BYTES);
});
