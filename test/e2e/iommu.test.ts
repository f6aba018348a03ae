/** Linux with its devices behind a virtio-iommu. */
import { expect, test } from 'vitest';
import { mustExec } from '../host/exec.ts';
import { Guest } from './support/guest.ts';
import { Network } from './support/network.ts';
import { load, type Plugged, plug, unplug, workOn } from './support/plugged.ts';
import { ScratchDisk } from './support/scratch-disk.ts';
import { stream, TCP_STREAM } from './support/tcp-stream.ts';
import { hostPort, VSOCK_STREAM, Vsock } from './support/vsock.ts';

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
const PORT = 7000;
const STREAM_BYTES = 16 * KIB;
/** Each page costs a round trip to the VMM, for which the vCPU waits and lets nobody else run. */
const TCP_BYTES = 128 * KIB;
const NOISE = '/tmp/noise';
const [CONSOLE, DISK, CARD, RNG, PMEM, VSOCK, CLOCK] = [1, 2, 3, 4, 5, 6, 7];

/** How the devices of the boot work, by the shell. */
const BUSY: Pick<Plugged, 'kind' | 'use'>[] = [
  { kind: 'console', use: 'echo said >/dev/hvc0' },
  { kind: 'rng', use: 'dd if=/dev/hwrng bs=64 count=1' },
  {
    kind: 'vda',
    use:
      `dd if=${NOISE} of=/dev/vda bs=16k oflag=direct && ` +
      `dd if=/dev/vda bs=16k count=2 iflag=direct | cmp - ${NOISE}`,
  },
  { kind: 'eth0', use: 'ping -c 1 -W 20 -s 1400 10.77.0.1' },
  { kind: 'pmem0', use: `dd if=${NOISE} of=/pmem/f bs=16k conv=fsync && cmp ${NOISE} /pmem/f` },
  { kind: 'stream', use: `vsock-stream dial ${hostPort(PORT)} 1 ${STREAM_BYTES} both` },
];

/** They are plugged on the segment behind the IOMMU. */
const pluggable = (disk: ScratchDisk): Plugged[] => [
  {
    kind: 'disk',
    body: { path: disk.path, image_type: 'Raw', pci_segment: 1, iommu: true },
    // Written once: where there is no disk any more, a write would make a file of that name.
    open: `test -b /dev/vdb && dd if=${NOISE} of=/dev/vdb bs=16k oflag=direct 2>/dev/null`,
    use: `dd if=/dev/vdb bs=16k count=2 iflag=direct | cmp - ${NOISE}`,
    close: 'true',
  },
  {
    kind: 'net',
    body: { ip: '10.78.0.1', mask: '255.255.255.0', pci_segment: 1, iommu: true },
    open: 'ip link set eth1 up && ip addr add 10.78.0.2/24 dev eth1',
    use: 'ping -c 1 -W 20 -s 1400 10.78.0.1',
    close: 'true',
  },
];

const asPlugged = (one: Pick<Plugged, 'kind' | 'use'>): Plugged => ({
  ...{ body: {}, open: 'true', close: 'true' },
  ...one,
});

test('all devices work behind the IOMMU at once, while a disk and a card come and go', {
  timeout: TEST_TIMEOUT_MS,
}, async () => {
  await using network = await Network.make({ settings: 'iommu=on' });
  const { host } = network;
  await using disk = await ScratchDisk.make(8);
  await using pmem = await ScratchDisk.make(16, 'ext4');
  await using more = await ScratchDisk.make(8);
  await using vsock = await Vsock.make();
  await using _serving = await vsock.serve(`serve ${vsock.ownPort(PORT)} 1 ${STREAM_BYTES} both`);
  await using guest = await Guest.boot({
    ...{ hasIommu: true, network, programs: { ...VSOCK_STREAM, ...TCP_STREAM } },
    console: 'file=hvc0,iommu=on',
    disks: [{ path: disk.path, format: 'raw', settings: 'iommu=on' }],
    args: [
      ...['--rng', 'src=/dev/urandom,iommu=on', '--pmem', `file=${pmem.path},iommu=on`],
      ...['--vsock', `${vsock.args[1]},iommu=on`, '--rtc', 'iommu=on'],
      ...['--platform', 'num_pci_segments=2,iommu_segments=[1]'],
    ],
  });
  const slots = [CONSOLE, DISK, CARD, RNG, PMEM, VSOCK, CLOCK];
  await guest.eventually(`[ $(${GROUPS} | wc -l) = ${slots.length} ]`); // one after the other
  expect((await guest.run(GROUPS)).split('\n')).toEqual(slots.map((slot) => `0000:00:0${slot}.0`));
  await guest.run(`dd if=/dev/urandom of=${NOISE} bs=16k count=2 2>/dev/null && mkdir /pmem`);
  await guest.eventually('test -c /dev/hvc0 && test -b /dev/vda && test -b /dev/pmem0');
  await guest.run('mount -t ext4 -o dax /dev/pmem0 /pmem');

  const busy = BUSY.map(asPlugged);
  for (const one of busy) await guest.run(load(one));
  await workOn(guest, busy);
  for (const from of ['guest', 'host'] as const) await stream(network, guest, from, TCP_BYTES);
  for (const _ of ['once', 'again']) {
    const plugged = pluggable(more);
    const places: string[] = [];
    for (const one of plugged) {
      places.push(await plug(guest, one));
      await guest.run(load(one));
    }
    expect(await guest.run(GROUPS)).toContain('0001:00:01.0\n0001:00:02.0');
    await workOn(guest, plugged);
    for (const [i, { kind }] of plugged.entries()) {
      await unplug(guest, kind, places[i] ?? ''); // from under its load
      await guest.eventually(`test -e /tmp/ended-${kind} && rm /tmp/ended-${kind}`);
    }
  }
  await workOn(guest, busy);

  const console = `${guest.directory}/hvc0`; // what was typed is there, too, and it may be late
  await mustExec(
    host,
    `for _ in $(seq 100); do grep -q '^said' ${console} && exit; sleep 0.2; done; exit 1`,
  );
  const sum = (await guest.run(`sha256sum <${NOISE}`)).split(' ')[0];
  for (const { path } of [disk, more])
    expect(await mustExec(host, `head -c 32768 ${path} | sha256sum`)).toContain(sum);
  expect(await guest.run('dmesg | grep -ciE "oops|bug:|rcu.*stall|DMA.*fail" || true')).toBe('0');
});

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
