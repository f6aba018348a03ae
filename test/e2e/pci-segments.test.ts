/** Devices on PCI segments of their own, as a guest finds them. */
import { expect, test } from 'vitest';
import { Guest } from './support/guest.ts';
import { ScratchDisk } from './support/scratch-disk.ts';

const TEST_TIMEOUT_MS = 240_000;

/** The disk at a place on the buses. */
const diskAt = (bdf: string): string => `$(ls /sys/bus/pci/devices/${bdf}/virtio*/block)`;

test('each of four segments has a disk that works, and one more is plugged and removed', {
  timeout: TEST_TIMEOUT_MS,
}, async () => {
  await using added = await ScratchDisk.make(12);
  await using first = await ScratchDisk.make(16);
  await using second = await ScratchDisk.make(17);
  await using third = await ScratchDisk.make(18);
  await using fourth = await ScratchDisk.make(19);
  const places = ['0', '1', '2', '3,pci_device_id=31'];
  const disks = [first, second, third, fourth].map(
    ({ path }, i) => `path=${path},image_type=raw,pci_segment=${places[i]}`,
  );
  await using guest = await Guest.boot({
    args: ['--platform', 'num_pci_segments=4', '--disk', ...disks],
  });
  const bdfs = ['0000:00:01.0', '0001:00:01.0', '0002:00:01.0', '0003:00:1f.0'];

  for (const [segment, bdf] of bdfs.entries()) {
    const mib = await guest.run(`echo $(($(cat /sys/block/${diskAt(bdf)}/size) / 2048))`);
    expect(Number(mib)).toBe(16 + segment);
    await guest.run(
      `d=/dev/${diskAt(bdf)}; echo segment ${segment} | dd of=$d bs=512 conv=sync oflag=direct 2>&1 && ` +
        `test "$(dd if=$d bs=512 count=1 iflag=direct 2>/dev/null | head -n1)" = "segment ${segment}"`,
    );
  }
  const config = { id: 'more', path: added.path, pci_segment: 2, image_type: 'Raw' };
  for (const _ of ['once', 'again']) {
    const answer = await guest.api.put('vm.add-disk', config);
    expect(answer).toMatchObject({ status: 200, json: { id: 'more', bdf: '0002:00:02.0' } });
    await guest.eventually('ls -d /sys/bus/pci/devices/0002:00:02.0/virtio*/block/*');
    await guest.run(
      `dd if=/dev/${diskAt('0002:00:02.0')} of=/dev/null bs=1M count=12 iflag=direct 2>&1`,
    );
    expect((await guest.api.put('vm.remove-device', { id: 'more' })).status).toBe(204);
    await guest.eventually('test ! -e /sys/bus/pci/devices/0002:00:02.0');
    await expect
      .poll(async () => JSON.stringify((await guest.api.get('vm.info')).json), { timeout: 30_000 })
      .not.toContain('_virtio-pci-more');
  }
});
