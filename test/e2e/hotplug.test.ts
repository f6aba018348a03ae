/** Devices that come and go while their guest works with all of them. */
import { expect, test } from 'vitest';
import { mustExec } from '../host/exec.ts';
import { type Daemon, virtiofsd } from './support/daemon.ts';
import { Guest } from './support/guest.ts';
import { load, type Plugged, plug, stop, unplug, workOn } from './support/plugged.ts';
import { ScratchDisk } from './support/scratch-disk.ts';
import { hostPort, VSOCK_STREAM, Vsock } from './support/vsock.ts';

const TEST_TIMEOUT_MS = 300_000;
const MIB = 1 << 20;
const BOOT_MS_MAX = 90_000;
const PORT = 7000;
const STREAM_BYTES = 65_536;
const HOST_ADDRESS = '10.78.0.1';
const NOISE = '/tmp/noise';

interface Backing {
  disk: ScratchDisk;
  pmem: ScratchDisk;
  share: Daemon;
  vsock: Vsock;
}

/** Copies the noise to a file of a file system, to the host, and compares. */
const copy = (folder: string): string =>
  `dd if=${NOISE} of=${folder}/f bs=64k conv=fsync && cmp ${NOISE} ${folder}/f`;

const devices = ({ disk, pmem, share, vsock }: Backing): Plugged[] => [
  {
    kind: 'disk',
    body: { path: disk.path, image_type: 'Raw' },
    open: 'test -b /dev/vda',
    use:
      `dd if=${NOISE} of=/dev/vda bs=64k oflag=direct && ` +
      `dd if=/dev/vda bs=64k count=4 iflag=direct | cmp - ${NOISE}`,
    close: 'true',
  },
  {
    kind: 'net',
    body: { ip: HOST_ADDRESS, mask: '255.255.255.0' },
    open: 'ip link set eth0 up && ip addr add 10.78.0.2/24 dev eth0',
    use: `ping -c 1 -W 10 -s 1400 ${HOST_ADDRESS}`,
    close: 'true',
  },
  {
    kind: 'pmem',
    body: { file: pmem.path },
    open: 'mkdir -p /pmem && mount -t ext4 -o dax /dev/pmem0 /pmem',
    use: copy('/pmem'),
    close: 'umount /pmem',
  },
  {
    kind: 'fs',
    body: { tag: 'share', socket: share.socket, num_queues: 1, queue_size: 256 },
    open: 'mkdir -p /share && mount -t virtiofs share /share',
    use: copy('/share'),
    close: 'umount /share',
    prepare: () => startAgain(share),
  },
  {
    kind: 'vsock',
    body: { cid: 3, socket: vsock.socket },
    open: 'true',
    use: `vsock-stream dial ${hostPort(PORT)} 1 ${STREAM_BYTES} both`,
    close: 'true',
  },
];

/** A daemon that serves one connection ends with it. */
async function startAgain(daemon: Daemon): Promise<void> {
  await daemon.kill();
  await mustExec(daemon.host, `rm -f ${daemon.socket}`);
  await daemon.start();
}

const openFiles = async (guest: Guest): Promise<number> =>
  Number(await mustExec(guest.host, `ls /proc/${guest.vmm.pid}/fd | wc -l`));

test('each kind of device comes, works, goes and comes again while all others work', {
  timeout: TEST_TIMEOUT_MS,
}, async () => {
  await using disk = await ScratchDisk.make(16);
  await using pmem = await ScratchDisk.make(64, 'ext4');
  await using share = await virtiofsd();
  await using vsock = await Vsock.make();
  await using guest = await Guest.boot({
    ...{ cpus: 2, memory: '512M,shared=on', programs: VSOCK_STREAM },
  });
  const { host } = guest;
  await using _serving = await vsock.serve(`serve ${vsock.ownPort(PORT)} 1 ${STREAM_BYTES} both`);
  await guest.run(`dd if=/dev/urandom of=${NOISE} bs=64k count=4`);
  const before = await openFiles(guest);
  const all = devices({ disk, pmem, share, vsock });
  const places = new Map<string, string>();

  for (const device of all) {
    places.set(device.kind, await plug(guest, device));
    await guest.run(load(device));
  }
  for (const device of all) {
    const { kind } = device;
    await stop(guest, device);
    await unplug(guest, kind, places.get(kind) ?? '');
    await workOn(
      guest,
      all.filter((other) => other !== device),
    );
    expect([kind, await plug(guest, device)]).toEqual([kind, places.get(kind)]);
    await guest.run(load(device));
  }
  const resized = { id: 'disk', desired_size: 32 * MIB };
  expect((await guest.api.put('vm.resize-disk', resized)).status).toBe(204);
  await guest.eventually(`test $(cat /sys/block/vda/size) = ${resized.desired_size / 512}`);
  await workOn(guest, all);

  // What is not mounted goes from under its load.
  for (const device of all) {
    if (device.close !== 'true') await stop(guest, device);
    await unplug(guest, device.kind, places.get(device.kind) ?? '');
  }
  for (const kind of ['disk', 'net', 'vsock']) await guest.eventually(`test -e /tmp/ended-${kind}`);
  const sum = (await guest.run(`sha256sum <${NOISE}`)).trim();
  const written = [`head -c 262144 ${disk.path}`, `cat ${share.folder}/share/f`];
  for (const read of written)
    expect((await mustExec(host, `${read} | sha256sum`)).trim()).toBe(sum);
  expect(await pmem.sha256('f')).toBe(sum.split(' ')[0]);
  await expect.poll(() => openFiles(guest), { timeout: 60_000, interval: 100 }).toBe(before);
  expect(await guest.run('dmesg | grep -ciE "oops|bug:|rcu.*stall|ACPI.*error" || true')).toBe('0');
});

test('what comes while the guest still boots is there when it has booted', {
  timeout: TEST_TIMEOUT_MS,
}, async () => {
  await using disk = await ScratchDisk.make(16);
  await using guest = await Guest.start({
    ...{ cpus: 1, cpusMax: 2, cmdline: 'loglevel=7' },
  });
  // It has looked for PCI devices and processors, and hears of no event yet.
  await guest.waitFor('Switched to clocksource', BOOT_MS_MAX);

  const added = await guest.api.put('vm.add-disk', { path: disk.path, image_type: 'Raw' });
  const resized = await guest.api.put('vm.resize', { desired_vcpus: 2 });
  expect([added.status, resized.status]).toEqual([200, 204]);

  await guest.ready();
  await guest.eventually('test -b /dev/vda && test -e /sys/devices/system/cpu/cpu1');
});
