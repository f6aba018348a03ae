/** A PCI device of the host's own that reaches what the guest's virtio-iommu maps for it. */
import { expect, test } from 'vitest';
import { FIO, fioVerify, NVME, NVME_LOAD } from './support/fio.ts';
import { Guest } from './support/guest.ts';
import { HostDevice } from './support/host-device.ts';

const TEST_TIMEOUT_MS = 600_000;
const POLL = { timeout: 60_000, interval: 200 };
const FUNCTION = '0001:00:01.0';

test('a drive behind the IOMMU is verified, lost under load, and comes again', {
  timeout: TEST_TIMEOUT_MS,
}, async () => {
  await using device = await HostDevice.take();
  await using guest = await Guest.boot({
    ...{ hasIommu: true, cpus: 2, memory: '1G', programs: FIO },
    args: [
      ...['--platform', 'num_pci_segments=2,iommu_segments=[1]'],
      ...['--device', `path=${device.path},id=drive,iommu=on,pci_segment=1`],
    ],
  });
  const { api } = guest;
  const isThere = async () => JSON.stringify((await api.get('vm.info')).json).includes(FUNCTION);

  for (const _ of ['once', 'again']) {
    await guest.eventually(`test -b ${NVME}`);
    expect(await guest.run('ls /sys/kernel/iommu_groups/*/devices')).toContain(FUNCTION);
    await fioVerify(guest);
    await guest.run(NVME_LOAD);
    expect((await api.put('vm.remove-device', { id: 'drive' })).status).toBe(204);
    await guest.eventually(`test -e /ended && ! test -e ${NVME}`, 60_000);
    await expect.poll(isThere, POLL).toBe(false);

    const config = { path: device.path, id: 'drive', iommu: true, pci_segment: 1 };
    const answer = await api.put('vm.add-device', config);
    expect(answer).toMatchObject({ status: 200, json: { bdf: FUNCTION } });
    await guest.run('rm /ended');
  }
  await guest.eventually(`test -b ${NVME}`);
  await fioVerify(guest);
  // The IOMMU of the host has 48 bits (test/host/README.md).
  const reserved = await guest.run('cat /sys/kernel/iommu_groups/*/reserved_regions');
  expect(reserved).toMatch(/^0x00000000fee00000 0x00000000feefffff msi$/m);
  expect(reserved).toMatch(/^0x0001000000000000 0xffffffffffffffff reserved$/m);
});
