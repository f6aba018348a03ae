/** A PCI device of the host's own in a guest: an NVMe drive, which reads and writes guest memory. */
import { expect, test } from 'vitest';
import { mustExec } from '../host/exec.ts';
import { FIO, fioVerify, NVME, NVME_LOAD } from './support/fio.ts';
import { Guest } from './support/guest.ts';
import { HostDevice } from './support/host-device.ts';

const TEST_TIMEOUT_MS = 300_000;
const MIB = 1 << 20;
const POLL = { timeout: 60_000, interval: 200 };

/** Writes noise, reads it again from the device itself, and compares. Prints the checksum. */
const verify = (mib = 4): string =>
  `dd if=/dev/urandom of=/noise bs=64k count=$((${mib} * 16)) 2>/dev/null && ` +
  `dd if=/noise of=${NVME} bs=64k oflag=direct 2>/dev/null && ` +
  `want=$(sha256sum </noise) && ` +
  `got=$(dd if=${NVME} bs=64k count=$((${mib} * 16)) iflag=direct 2>/dev/null | sha256sum) && ` +
  'test "$want" = "$got" && echo "$got"';

const interrupts =
  "awk '/nvme0q/{for(i=2;i<=NF;i++)if($i~/^[0-9]+$/)n+=$i}END{print n+0}' /proc/interrupts";

test('a drive is there from the boot on, works by MSI-X, and after a reboot, and is the host’s again', {
  timeout: TEST_TIMEOUT_MS,
}, async () => {
  await using device = await HostDevice.take();
  let written = '';
  {
    await using guest = await Guest.boot({ args: ['--device', `path=${device.path}`] });
    const info = (await guest.api.get('vm.info')).json as {
      config: { devices: { id: string }[] };
      device_tree: Record<string, { resources: { PciBar: object }[] }>;
    };
    const id = info.config.devices[0]?.id ?? '';
    expect(id).toMatch(/^_vfio\d+$/);
    expect(info.device_tree[id]?.resources[0]?.PciBar).toMatchObject({ size: 0x4000 });

    await guest.eventually(`test -b ${NVME}`);
    await guest.run(verify(), 120_000);
    expect(Number(await guest.run(interrupts))).toBeGreaterThan(10);
    expect(await guest.run('cat /sys/class/nvme/nvme0/serial')).toContain('passthrough');

    expect((await guest.api.put('vm.reboot')).status).toBe(204);
    await guest.ready();
    await guest.eventually(`test -b ${NVME}`);
    written = await guest.run(verify(), 120_000);
  }
  const read = await device.onHost((disk) =>
    mustExec(device.host, `dd if=${disk} bs=1M count=4 iflag=direct 2>/dev/null | sha256sum`),
  );
  expect(read.trim()).toBe(written);
});

test('a drive comes and goes while it works, and RAM that comes is reached', {
  timeout: TEST_TIMEOUT_MS,
}, async () => {
  await using device = await HostDevice.take();
  await using guest = await Guest.boot({ memory: '512M,hotplug_size=512M', programs: FIO });
  const gone = async (id: string) => {
    const tree = (await guest.api.get('vm.info')).json as { device_tree: object };
    return !(id in tree.device_tree);
  };

  const added = await guest.api.put('vm.add-device', { path: device.path, id: 'drive' });
  expect([added.status, added.json]).toEqual([200, { id: 'drive', bdf: expect.any(String) }]);
  await guest.eventually(`test -b ${NVME}`);
  await fioVerify(guest);
  await guest.run(NVME_LOAD);
  expect((await guest.api.put('vm.remove-device', { id: 'drive' })).status).toBe(204);
  await guest.eventually(`test -e /ended && ! test -e ${NVME}`, 60_000);
  await expect.poll(() => gone('drive'), POLL).toBe(true);

  await device.onHost((disk) => mustExec(device.host, `test -b ${disk}`));
  expect((await guest.api.put('vm.add-device', { path: device.path })).status).toBe(200);
  await guest.eventually(`test -b ${NVME}`);
  await fioVerify(guest);
  await guest.run('echo online_movable >/sys/devices/system/memory/auto_online_blocks');
  expect((await guest.api.put('vm.resize', { desired_ram: 1024 * MIB })).status).toBe(204);
  await guest.eventually("test $(awk '/MemTotal/{print int($2/1024)}' /proc/meminfo) -ge 900");
  // What is movable, as buffers of programs are, goes to RAM that has come first.
  await guest.run(verify(), 120_000);
});

test('a drive that the host takes away is lost to the guest, which goes on', {
  timeout: TEST_TIMEOUT_MS,
}, async () => {
  await using device = await HostDevice.take();
  await using guest = await Guest.boot({ args: ['--device', `path=${device.path}`] });
  await guest.eventually(`test -b ${NVME}`);
  await guest.run(NVME_LOAD);

  await mustExec(device.host, `timeout 60 sh -c 'echo 1 >${device.path}/remove'`);
  await guest.eventually(`test -e /ended && ! test -e ${NVME}`, 60_000);
  expect(guest.vmmLog).toContain('The host takes it back');
  await mustExec(device.host, `echo 1 >/sys/bus/pci/rescan && test -e ${device.path}`);
});

test('a device that the host uses itself is refused, and one that is in use', {
  timeout: TEST_TIMEOUT_MS,
}, async () => {
  await using device = await HostDevice.take();
  await using guest = await Guest.boot({ args: ['--device', `path=${device.path}`] });
  await using other = await Guest.boot();
  const refusal = async (given: Guest, path: string) =>
    JSON.stringify((await given.api.put('vm.add-device', { path })).json);

  expect(await refusal(guest, device.path)).toContain('Duplicated device path');
  expect(await refusal(other, device.path)).toContain('already in use');
  const disk = await mustExec(device.host, 'readlink -f /sys/block/vda/device/..');
  expect(await refusal(other, disk.trim())).toContain('not bound to vfio-pci, but to virtio-pci');
  await guest.eventually(`test -b ${NVME}`);
  await guest.run(verify(1), 120_000);
});
