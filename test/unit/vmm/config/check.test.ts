import { expect, test } from 'vitest';
import { normalise, normaliseCli } from '../../../../src/api/dialects.ts';
import { errorChain, VmmError } from '../../../../src/errors.ts';
import { checkBootable, checkConfig } from '../../../../src/vmm/config/check.ts';
import { type HostFacts, memTotal, parseCpuList, systemHost } from '../../../../src/vmm/host.ts';

const MIB = 2 ** 20;
const GIB = 2 ** 30;

const host: HostFacts = {
  memoryBytes: () => 4 * GIB,
  cpus: () => new Set([0, 1]),
  numaNodes: () => new Set([0, 1]),
};

/** In the dialect of 2020 if it names its kernel so. */
const configOf = (body: object) =>
  normalise({ ...(!('kernel' in body) && { payload: { kernel: '/k' } }), ...body }).config;

function refusalOf(check: () => void): VmmError {
  try {
    check();
  } catch (error) {
    if (error instanceof VmmError) return error;
    throw error;
  }
  throw new Error('Not refused');
}

const vcpus = (boot_vcpus: number, max_vcpus = boot_vcpus, rest = {}) => ({
  cpus: { boot_vcpus, max_vcpus, ...rest },
});
const topology = (...[threads_per_core, cores_per_die, dies_per_package, packages]: number[]) => ({
  topology: { threads_per_core, cores_per_die, dies_per_package, packages },
});
const memory = (size: number, rest = {}) => ({ memory: { size, ...rest } });
const zone = (id: string, rest = {}) => ({ id, size: 256 * MIB, ...rest });
const disk = (rest: object) => ({ disks: [{ path: '/d' }, { path: '/e', ...rest }] });
const net = (rest: object) => ({ net: [rest] });
const seedVsocks = (...cids: number[]) => ({
  kernel: { path: '/k' },
  cmdline: { args: '' },
  vsock: cids.map((cid) => ({ cid, sock: `/v${cid}` })),
});
const LIMITED = { ops: { size: 9, refill_time: 9 } };
const groups = (...all: [id: string, rate_limiter_config: object][]) => ({
  rate_limit_groups: all.map(([id, rate_limiter_config]) => ({ id, rate_limiter_config })),
});
const shared = { memory: { size: 256 * MIB, shared: true } };

test.each<[body: object, text: string, remedy: string]>([
  [vcpus(0), 'No vCPUs to boot', 'cpus.boot_vcpus is 0'],
  [vcpus(2, 1), 'Max CPUs (1) lower than boot CPUs (2)', 'cpus.max_vcpus is 1'],
  [vcpus(1, 255), 'Too many CPUs: specified 255 but 254 is the limit', 'cpus.max_vcpus is 255'],
  [vcpus(1, 1, topology(1, 0, 1, 1)), 'empty part', 'cpus.topology.cores_per_die is 0'],
  [vcpus(4, 4, topology(4, 1, 1, 1)), 'at most 2 threads', 'threads_per_core is 4'],
  [vcpus(2, 2, topology(1, 1, 1, 1)), 'Product of CPU topology', 'multiplies to 1'],
  [vcpus(1, 1, { affinity: [{ vcpu: 1, host_cpus: [0] }] }), 'No vCPU 1', 'affinity[0].vcpu is 1'],
  [
    vcpus(1, 1, { affinity: [{ vcpu: 0, host_cpus: [1, 2] }] }),
    'Host has no CPU 2',
    'cpus.affinity[0].host_cpus names 2',
  ],
  [vcpus(1, 1, { affinity: [{ vcpu: 0, host_cpus: [] }] }), 'No host CPU', 'host_cpus is empty'],
  [vcpus(1, 1, { max_phys_bits: 20 }), 'Too few physical', 'cpus.max_phys_bits is 20'],

  [memory(0), 'No memory zones found', 'memory.size is 0'],
  [memory(1), 'Memory size is misaligned', 'memory.size is 1: give a multiple of 4096'],
  [memory(300_000_001), 'Memory size is misaligned', 'memory.size is 300000001'],
  [memory(3 * MIB, { hugepages: true }), 'Memory size is misaligned', 'a multiple of 2097152'],
  [memory(512 * 1024), 'Too little memory', 'memory.size is 524288'],
  [memory(5 * GIB), 'More memory than the host has', 'give at most 4294967296'],
  [memory(GIB, { zones: [zone('a')] }), 'Memory configuration is not valid', 'drop the zones'],
  [memory(0, { zones: [zone('a', { size: 4097 })] }), 'misaligned', 'memory.zones[0].size is 4097'],
  [memory(0, { zones: [zone('a', { hotplug_size: GIB })] }), 'not valid', 'zones[0].hotplug_size'],
  [
    memory(0, { zones: [zone('a', { shared: true, file: '/f', host_numa_node: 0 })] }),
    'not valid',
    'memory.zones[0] has shared, file and host_numa_node',
  ],
  [memory(GIB, { shared: true, mergeable: true }), "'mergeable' and 'shared'", 'memory.shared'],
  [memory(GIB, { hugepage_size: 2 * MIB }), 'Huge page size specified', 'hugepage_size is 2097152'],
  [memory(GIB, { hugepages: true, hugepage_size: 2 ** 28 * 3 }), 'misaligned', 'memory.size'],
  [memory(3 * MIB, { hugepages: true, hugepage_size: 3 * MIB }), 'not power of 2', '3145728'],
  [memory(GIB, { hotplugged_size: MIB }), 'not valid', 'memory.hotplugged_size is 1048576'],

  [{ payload: { kernel: '/k', firmware: '/f' } }, 'not bootable', 'firmware is provided'],
  [{ serial: { mode: 'File' } }, 'Path missing when using file', 'serial.mode is File'],
  [{ console: { mode: 'File', file: '' } }, 'Path missing when using file', 'console.mode is File'],
  [{ serial: { mode: 'Socket' } }, 'Path missing when using socket', 'serial.mode is Socket'],
  [{ console: { mode: 'Socket' } }, 'Path missing when using socket', 'console.mode is Socket'],
  [
    { debug_console: { mode: 'Socket', socket: '/s' } },
    'No socket option',
    'debug_console.mode is Socket',
  ],
  [
    { debug_console: { mode: 'Null', iobase: 0x3ff } },
    'Port 0x3ff of the debug console is taken',
    'debug_console.iobase is 1023, a port of serial: give a free one such as 233',
  ],
  [disk({ id: '__x' }), 'Identifier __x is not invalid', 'id __x'],
  [{ devices: [{}] }, 'VFIO device config must specify', 'devices[0] has neither'],
  [{ balloon: { size: 512 * MIB } }, 'Balloon size (536870912)', 'balloon.size is 536870912'],
  [
    { platform: { uuid: 'nonsense' } },
    'Failure to parse uuid: nonsense',
    'system_uuid is nonsense',
  ],
  [
    { platform: { system_version: 'a\0b' } },
    'SMBIOS string is empty or has a zero byte',
    'platform.system_version is "a\\u0000b"',
  ],
  [{ platform: { oem_strings: ['a', ''] } }, 'is empty', 'platform.oem_strings[1] is ""'],
  [{ landlock_rules: [{ path: '/', access: 'x' }] }, 'Invalid access: x', 'rules[0].access is x'],

  [disk({ queue_size: 3 }), 'power of 2 no greater than 32768: 3', 'disks[1].queue_size is 3'],
  [disk({ queue_size: 2 }), 'greater than 2: 2', 'disks[1].queue_size is 2'],
  [disk({ num_queues: 2 }), 'Queue count (2) must not exceed', 'disks[1].num_queues is 2'],
  [disk({ num_queues: 0 }), 'Disk without a queue', 'disks[1].num_queues is 0'],
  [
    disk({ queue_affinity: [{ queue_index: 0, host_cpus: [1, 9] }] }),
    'Host has no CPU 9',
    'disks[1].queue_affinity[0].host_cpus names 9',
  ],
  [{ disks: [{}] }, 'No disk path was specified', 'disks[0].path is missing'],
  [disk({ path: '' }), 'No disk path was specified', 'disks[1].path is missing'],
  [disk({ id: 'a\nb' }), 'has control characters', 'the id "a\\nb"'],
  [disk({ id: 'x'.repeat(256) }), 'too long', `the id "${'x'.repeat(255)}"`],
  [disk({ serial: 'x'.repeat(21) }), 'serial length (21)', 'disks[1].serial is 21 bytes'],
  [disk({ vhost_socket: '/s' }), 'path and vhost socket both', 'disks[1] has path /e'],
  [{ ...shared, disks: [{ vhost_user: true }] }, 'No socket provided', 'disks[0].vhost_user'],
  [
    { ...shared, disks: [{ vhost_user: true, vhost_socket: '/s', iommu: true }] },
    'neither limited nor',
    'disks[0].vhost_user is true',
  ],
  [disk({ rate_limit_group: 'g' }), 'Invalid rate-limiter group', 'rate_limit_group is g'],
  [disk({ rate_limit_group: 'g', rate_limiter_config: {} }), 'both provided', 'disks[1] has'],
  [groups(['g', {}]), 'Invalid rate-limiter group', 'rate_limit_groups[0] limits nothing'],
  [groups(['', LIMITED]), 'Invalid rate-limiter group', 'rate_limit_groups[0].id is empty'],
  [{ ...shared, fs: [{ tag: 't'.repeat(37), socket: '/s' }] }, 'tag (37)', 'fs[0].tag is 37 bytes'],
  [{ pmem: [{ file: '/p', size: 4096 }] }, 'not multiple of 2MiB', 'pmem[0].size is 4096'],

  [net({ num_queues: 1 }), 'Number of queues (1)', 'net[0].num_queues is 1'],
  [net({ num_queues: 4 }), 'Queue count (4) must not exceed', 'net[0].num_queues is 4'],
  [net({ num_queues: 3 }), 'Number of queues (3)', 'net[0].num_queues is 3: give 2 for each pair'],
  [net({ queue_size: 3 }), 'Queue size must be', 'net[0].queue_size is 3'],
  [net({ mac: '01:00:5e:00:00:01' }), 'no address of one', 'net[0].mac is 01:00:5e:00:00:01'],
  [net({ mac: '00:00:00:00:00:00' }), 'no address of one', 'net[0].mac is 00:00:00:00:00:00'],
  [net({ host_mac: 'ff:ff:ff:ff:ff:ff' }), 'no address of one', 'net[0].host_mac is ff:ff'],
  [net({ ip: '10.0.0.1', mask: '255.0.255.0' }), 'Mask 255.0.255.0', 'net[0].mask is 255.0.255.0'],
  [net({ ip: '10.0.0.1', mask: '0.0.0.255' }), 'Mask 0.0.0.255', 'net[0].mask is 0.0.0.255'],
  [net({ mtu: 1000 }), 'MTU 1000 is lower than 1280', 'net[0].mtu is 1000'],
  [net({ offload_csum: false }), 'depend on "offload_csum"', 'net[0].offload_csum is false'],
  [net({ ip: '10.0.0.1' }), 'IP provided without a mask', 'net[0].ip is 10.0.0.1'],
  [net({ mask: '255.0.0.0' }), 'Mask provided without an IP', 'net[0].mask is 255.0.0.0'],
  [{ ...shared, ...net({ vhost_user: true }) }, 'No socket provided', 'net[0].vhost_user is true'],
  ...[0, 1, 2, 2 ** 32 - 1].map((cid): [object, string, string] => [
    { vsock: { cid, socket: '/v' } },
    `${cid} is a special VSOCK CID`,
    `vsock.cid is ${cid}: give 3 or more`,
  ]),
  [seedVsocks(3, 4), 'Too many virtio-vsock devices', 'vsock[1].cid is 4: a VM has one'],
  [seedVsocks(3, 3), 'Too many virtio-vsock devices', 'vsock[1].cid is 3'],
  [
    { vsock: { cid: 3, socket: `/${'v'.repeat(107)}` } },
    'path (108)',
    'name a path of at most 107',
  ],
  [{ vsock: { cid: 3, socket: '' } }, 'path (0)', 'name a path of at most 107'],

  [
    { ...memory(GIB, { shared: false }), fs: [{ tag: 't', socket: '/s' }] },
    'Using vhost-user requires',
    'fs[0] is given and memory.shared is false',
  ],
  [
    { ...memory(GIB, { shared: false }), user_devices: [{ socket: '/s' }] },
    'Using user devices requires',
    'user_devices[0]',
  ],
  [
    { platform: { iommu_address_width_bits: 65 } },
    'IOMMU address width in bits (65) should be less than or equal to 64',
    'platform.iommu_address_width_bits is 65: give 12 to 64',
  ],
  [
    { platform: { iommu_address_width_bits: 11 } },
    'IOMMU address width in bits (11) should be greater than or equal to 12',
    'platform.iommu_address_width_bits is 11',
  ],
  [
    { platform: { iommu_segments: [0] } },
    'Device is on an IOMMU PCI segment (0) but not placed behind IOMMU',
    'console is on PCI segment 0 of platform.iommu_segments: set console.iommu',
  ],
  [
    {
      platform: { num_pci_segments: 2, iommu_segments: [1] },
      memory: { size: 256 * MIB, shared: true },
      fs: [{ tag: 't', socket: '/s', pci_segment: 1 }],
    },
    'Device is on an IOMMU PCI segment (1) but does not support being placed behind IOMMU',
    'fs[0] is on PCI segment 1 of platform.iommu_segments: put it on another segment',
  ],
  [
    {
      platform: { num_pci_segments: 2, iommu_segments: [1] },
      devices: [{ path: '/d', pci_segment: 1 }],
    },
    'Device is on an IOMMU PCI segment (1) but not placed behind IOMMU',
    'devices[0] is on PCI segment 1 of platform.iommu_segments: set devices[0].iommu',
  ],
  [
    { platform: { iommu_segments: [1] } },
    'Invalid PCI segment id: 1',
    'platform.iommu_segments is 1: give less than platform.num_pci_segments, 1',
  ],
  [{ platform: { num_pci_segments: 97 } }, 'PCI segments (97)', 'num_pci_segments is 97'],
  [
    {
      platform: { num_pci_segments: 2 },
      pci_segments: [{ pci_segment: 1, mmio32_aperture_weight: 0 }],
    },
    'A PCI segment has no addresses',
    'pci_segments[0].mmio32_aperture_weight is 0: give 1 or more',
  ],
  [
    { platform: { num_pci_segments: 16 }, pci_segments: [{ pci_segment: 16 }] },
    'Invalid PCI segment id: 16',
    'pci_segments[0].pci_segment is 16: give less than platform.num_pci_segments, 16',
  ],
  [
    { platform: { num_pci_segments: 0 } },
    'PCI segments (0)',
    'num_pci_segments is 0: give 1 to 96',
  ],
  [disk({ pci_segment: 1 }), 'Invalid PCI segment id: 1', 'disks[1].pci_segment is 1'],
  [disk({ pci_device_id: 0 }), 'device ID (0) is reserved', 'disks[1].pci_device_id is 0'],
  [disk({ pci_device_id: 32 }), 'device ID (32) is out of', 'disks[1].pci_device_id is 32'],
  [
    { disks: Array(40).fill({ path: '/d' }) },
    'Could not find an available device slot',
    'disks[30] is device 32 of PCI segment 0, which has room for 31: give the VM fewer devices',
  ],
  [
    { console: { mode: 'Off' }, disks: Array(29).fill({}), pvpanic: true, watchdog: true },
    'Could not find an available device slot',
    'pvpanic is device 32',
  ],
])('%j is refused: %s', (body, text, remedy) => {
  const error = refusalOf(() => checkConfig(configOf(body), host));

  const [what, why, how] = errorChain(error);
  expect(error.kind).toBe('invalid-config');
  expect(what).toBe('Failed to validate config');
  expect(why).toContain(text);
  expect(how).toContain(remedy);
});

test.each<[card: object, text: string, remedy: string]>([
  [{ fds: [3, 4, 5] }, 'does not match the number of FDs (6)', 'net[0].num_queues is 2 and fds is'],
  [{ fds: [3], num_queues: 4 }, 'does not match the number of FDs (2)', 'num_queues is 4 and fds'],
  [{ fds: [] }, 'does not match the number of FDs (0)', 'num_queues is 2 and fds is empty'],
  [{ fds: [2] }, 'File descriptor 2 is', 'net[0].fds names 2: give files of taps, from 3 on'],
  [{ fds: [3, 3], num_queues: 4 }, 'given twice', 'net[0].fds is 3,3'],
])('a card of the command line with %j is refused: %s', (card, text, remedy) => {
  const config = normaliseCli({ ...vcpus(2), payload: { kernel: '/k' }, net: [card] });

  const [, why, how] = errorChain(refusalOf(() => checkConfig(config, host)));

  expect(why).toContain(text);
  expect(how).toContain(remedy);
});

test('a file for two cards of the command line is a conflict', () => {
  const cards = [{ fds: [3] }, { tap: 'a' }, { fds: [5, 3], num_queues: 4 }];
  const config = normaliseCli({ ...vcpus(2), payload: { kernel: '/k' }, net: cards });

  const error = refusalOf(() => checkConfig(config, host));

  expect(error.kind).toBe('conflict');
  expect(errorChain(error).slice(1)).toEqual([
    'File descriptor 3 is used twice',
    'net[0].fds and net[2].fds name 3: give each card files of its own',
  ]);
});

test.each<[body: object, text: string]>([
  [{ disks: [{ path: '/d', id: 'a' }], net: [{ id: 'a' }] }, 'Identifier a is not unique'],
  [memory(0, { zones: [zone('a'), zone('a')] }), 'Memory zone identifier is not unique'],
  [{ devices: [{ path: '/x' }, { path: '/x' }] }, 'Duplicated device path: /x'],
  [{ pci_segments: [{ pci_segment: 0 }, { pci_segment: 0 }] }, 'PCI segment 0 is given twice'],
  [{ disks: [{ pci_device_id: 5 }, { pci_device_id: 5 }] }, 'already used: 5'],
  [
    { vsock: { cid: 3, socket: '/v' }, serial: { mode: 'Socket', socket: '/v' } },
    'Duplicated socket path: /v',
  ],
  ...(
    [
      { fs: [0, 1].map((i) => ({ tag: `${i}`, socket: '/v' })) },
      { fs: [{ tag: 't', socket: '/v' }], vsock: { cid: 3, socket: '/v' } },
      { disks: [{ vhost_user: true, vhost_socket: '/v' }], fs: [{ tag: 't', socket: '/v' }] },
      { net: [0, 1].map(() => ({ vhost_user: true, vhost_socket: '/v' })) },
    ] as object[]
  ).map((devices): [object, string] => [{ ...shared, ...devices }, 'Duplicated socket path: /v']),
  [
    { ...shared, fs: ['/a', '/b'].map((socket) => ({ tag: 't', socket })) },
    'Duplicated virtio-fs tag: t',
  ],
  [disk({ path: '/d' }), 'The file is already locked'],
  [disk({ path: '/d', readonly: true }), 'The file is already locked'],
  [{ net: [{ tap: 'a' }, { tap: 'b' }, { tap: 'a' }] }, 'Tap a is used twice'],
  [{ net: [{ pci_device_id: 5 }], rng: { src: '/r', pci_device_id: 5 } }, 'already used: 5'],
])('%j is a conflict: %s', (body, text) => {
  const error = refusalOf(() => checkConfig(configOf(body), host));

  expect(error.kind).toBe('conflict');
  expect(errorChain(error)[1]).toContain(text);
});

test.each([
  {},
  vcpus(1, 254),
  vcpus(2, 4, topology(1, 2, 1, 2)),
  vcpus(1, 1, { affinity: [{ vcpu: 0, host_cpus: [0, 1] }] }),
  memory(256 * MIB + 4096),
  memory(0, { hotplug_method: 'VirtioMem', zones: [zone('a', { hotplug_size: GIB })] }),
  memory(GIB, { hotplug_size: 64 * GIB }),
  { ...vcpus(2), ...net({ num_queues: 4, queue_size: 1 }) },
  { net: [{}, { tap: '' }, { tap: '' }, { tap: 'x%d' }, { tap: 'x%d' }] },
  ...['0.0.0.0', '128.0.0.0', '255.255.252.0', '255.255.255.255'].map((mask) =>
    net({ ip: '10.0.0.1', mask }),
  ),
  disk({ id: '' }),
  disk({ id: 'NIC//ü 1' }),
  {
    disks: [
      { path: '/d', readonly: true },
      { path: '/d', readonly: true },
    ],
  },
  { ...shared, fs: [{ tag: 't', socket: '/s' }] },
  {
    platform: { num_pci_segments: 2 },
    disks: [
      { path: '/d', pci_device_id: 5 },
      { path: '/e', pci_device_id: 5, pci_segment: 1 },
    ],
  },
  { serial: { mode: 'Tty' }, console: { mode: 'Tty' } },
  {
    console: { mode: 'Off' },
    disks: Array(29).fill({ path: '/d', readonly: true }),
    watchdog: true,
  },
  {
    platform: { num_pci_segments: 2 },
    disks: Array.from({ length: 60 }, (_, i) => ({ path: `/${i}`, pci_segment: i % 2 })),
    console: { mode: 'Off' },
  },
])('%j makes sense', (body) => {
  expect(() => checkConfig(configOf(body), host)).not.toThrow();
});

const SHARE = { fs: [{ tag: 't', socket: '/s' }] };

test.each<[string, object, boolean]>([
  ['nothing needs it', {}, false],
  ['a backend needs it', SHARE, true],
  ['the config says so', memory(GIB, { shared: true }), true],
  [
    'a backend needs it, and pages are huge',
    { ...SHARE, ...memory(GIB, { hugepages: true }) },
    true,
  ],
  [
    'a backend needs it, and the config says no',
    { ...SHARE, ...memory(GIB, { shared: false }) },
    false,
  ],
])('RAM where %s: shared is as %j makes it', (_, body, shared) => {
  expect(configOf(body).memory.shared).toBe(shared);
});

test.each<[string, object, string, string]>([
  ['many', { oem_strings: Array(256).fill('a') }, 'Too many SMBIOS OEM strings', 'has 256: give'],
  [
    'long',
    { chassis_asset_tag: 'x'.repeat(61_440) },
    'SMBIOS strings are too long',
    'have 61441 bytes: give at most 61440',
  ],
])('too %s strings of platform are refused', (_, platform, text, remedy) => {
  const chain = errorChain(refusalOf(() => checkConfig(configOf({ platform }), host)));

  expect(chain[1]).toBe(text);
  expect(chain[2]).toContain(remedy);
});

test('a VM without a payload can be created, but not booted', () => {
  const { config } = normalise({});

  expect(() => checkConfig(config, host)).not.toThrow();
  expect(errorChain(refusalOf(() => checkBootable(config)))).toContain(
    'No bootitem provided: neither firmware nor kernel',
  );
});

test('a boot names everything that is not supported yet, and nothing that has no effect', () => {
  const fine = configOf({
    ...memory(0, { zones: [{ id: 'z', size: GIB }] }),
    numa: [{ guest_numa_id: 0 }],
    ...vcpus(2, 4),
    serial: { mode: 'Null', iommu: true },
    platform: { oem_strings: ['x'] },
    ...{ watchdog: true, pvpanic: true, rtc: { iommu: true }, debug_console: { mode: 'Null' } },
    ...{ iommu: true, rng: { src: '/s', iommu: true } },
    vsock: { cid: 3, socket: '/s', iommu: true },
    disks: [{ path: '/d', iommu: true }],
    net: [{ iommu: true }],
    pmem: [{ file: '/f', iommu: true }],
    devices: [{ path: '/d', iommu: true }],
  });
  const asking = configOf({
    balloon: { size: 0, iommu: true },
    net: [{ vhost_user: true, vhost_socket: '/s', iommu: true }],
    disks: [
      { path: '/e', image_type: 'Vhdx', rate_limiter_config: { ops: { size: 9, refill_time: 9 } } },
    ],
    tpm: { socket: '/s' },
    vdpa: [{ path: '/d' }],
    platform: { tdx: true },
  });

  expect(() => checkBootable(fine)).not.toThrow();
  expect(refusalOf(() => checkBootable(asking)).message).toBe(
    'Not supported yet: platform.tdx, ' + 'net[0] iommu, balloon iommu, vdpa[0] path /d, tpm',
  );
});

test("the kernel's list of CPUs is read with its ranges", () => {
  expect([...parseCpuList('0-2,8,10-11\n')]).toEqual([0, 1, 2, 8, 10, 11]);
});

test("the host's RAM is read from what the kernel says of it", () => {
  expect(memTotal('MemFree: 1 kB\nMemTotal:       16309128 kB\n')).toBe(16_309_128 * 1024);
  expect(systemHost.memoryBytes()).toBeGreaterThan(64 * MIB);
  expect(systemHost.cpus()).toContain(0);
  expect(systemHost.numaNodes()).toContain(0);
});
