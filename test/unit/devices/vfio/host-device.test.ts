import { mkdirSync, mkdtempSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';
import type { DeviceContext } from '../../../../src/devices/device.ts';
import type { VfioConfig } from '../../../../src/devices/vfio/config.ts';
import { openHostDevice } from '../../../../src/devices/vfio/host-device.ts';
import { IommuDomains } from '../../../../src/devices/virtio/iommu-domains.ts';
import { errorChain } from '../../../../src/errors.ts';
import { native } from '../../../../src/native.ts';
import { VFIO } from '../../../../src/native-vfio.ts';
import { FakeVm } from '../../support/fake-host.ts';
import { FakePassthroughHost, FakeVfioDevice } from '../../support/fake-vfio.ts';

const NAME = '0000:00:04.0';
const GPA = 0xc400_0000;
const GSI = 20;
const [MSI, MSIX] = [0x40, 0x60];
const COMMAND = 4;

let sysfs: string;
let path: string;

beforeEach(() => {
  sysfs = mkdtempSync(join(tmpdir(), 'vfio-'));
  path = join(sysfs, NAME);
  const group = join(sysfs, 'groups/7/devices');
  for (const directory of [
    path,
    group,
    join(sysfs, 'drivers/vfio-pci'),
    join(sysfs, 'drivers/nvme'),
  ])
    mkdirSync(directory, { recursive: true });
  writeFileSync(join(path, 'class'), '0x010802\n');
  symlinkSync(join(sysfs, 'drivers/vfio-pci'), join(path, 'driver'));
  symlinkSync(join(sysfs, 'groups/7'), join(path, 'iommu_group'));
  symlinkSync(path, join(group, NAME));
});

afterEach(() => rmSync(sysfs, { recursive: true }));

/** Like an NVMe controller: its MSI-X table in the third page, what is pending in the fourth. */
const nvme = () =>
  new FakeVfioDevice().put(MSI, 0x0086_6005, 0, 0, 0).put(MSIX, 0x0002_0011, 0x2000, 0x3000);

async function open(
  device = nvme(),
  config: Partial<VfioConfig> = {},
  iommu?: DeviceContext['iommu'],
) {
  const host = new FakePassthroughHost();
  host.device = device;
  const vm = new FakeVm();
  const warnings: string[] = [];
  let reclaimed = 0;
  const pci = await openHostDevice(
    { path, iommu: false, pci_segment: 0, x_exclude_mmap_bars: [], ...config },
    {
      ...{ id: '_vfio0', vm, passthrough: host, lineGsi: GSI, placeBar: () => GPA, iommu },
      onWarning: (message) => warnings.push(message),
      onReclaim: () => reclaimed++,
    },
  );
  const decode = (isOn = true) => void pci.space.write(COMMAND, 2, isOn ? 6 : 0);
  const place = (gpa: number) => {
    void pci.space.write(0x10, 4, gpa);
    void pci.space.write(0x14, 4, Math.floor(gpa / 2 ** 32));
  };
  const mapped = () =>
    [...host.guest.mapped.values()].map(({ gpa, sizeBytes }) => [gpa, sizeBytes]);
  const device2 = device;
  return { pci, host, vm, warnings, decode, place, mapped, device: device2, lost: () => reclaimed };
}

test('what can be mapped is, but for the pages of the MSI-X table and what is pending', async () => {
  const { decode, mapped, vm } = await open();
  expect(mapped()).toEqual([]);

  decode();

  expect(mapped()).toEqual([[GPA, 0x2000]]);
  expect(vm.claims.map(({ base, sizeBytes }) => [base, sizeBytes])).toEqual([[GPA, 0x4000]]);
});

test('the guest takes the BAR with it wherever it goes, and nothing stays', async () => {
  const { decode, place, mapped, vm, pci } = await open();
  decode();
  place(GPA + 0x10_0000);

  expect(mapped()).toEqual([[GPA + 0x10_0000, 0x2000]]);
  expect(pci.bars[0]?.gpa).toBe(GPA + 0x10_0000);

  decode(false);
  expect([mapped(), vm.claims]).toEqual([[], []]);
});

test.each([
  ['RAM', 0x10_0000],
  ['the end of the window', 0xe7ff_e000 + 0x2000],
  ['local APICs', 0xfee0_0000],
])('a BAR over %s answers nowhere', async (_, gpa) => {
  const { decode, place, mapped, vm } = await open();
  decode();

  place(gpa);

  expect([mapped(), vm.claims]).toEqual([[], []]);
});

test('a BAR over that of another device answers nowhere, and the other stays', async () => {
  const { decode, place, mapped, vm } = await open();
  const other = { read: () => 7, write: () => {} };
  vm.claim({ space: 'mmio', base: GPA + 0x10_2000, sizeBytes: 0x1000 }, other);
  decode();

  place(GPA + 0x10_0000);

  expect(mapped()).toEqual([]);
  expect(vm.read(GPA + 0x10_2000, 1)).toBe(7);
  expect(vm.claims).toHaveLength(1);
});

test('where a page cannot be mapped, exits serve it', async () => {
  const { decode, host, vm, device } = await open();
  host.guest.refuse = () => true;
  decode();

  expect(vm.read(GPA + 8, 4)).toBe(0x5a);
  vm.write(GPA + 8, 4, 1);
  expect(device.written(0)).toEqual([[8, 4, 1]]);
});

test('a BAR that is excluded is not mapped', async () => {
  const { decode, mapped, vm } = await open(nvme(), { x_exclude_mmap_bars: [0] });
  decode();
  expect(mapped()).toEqual([]);
  expect(vm.read(GPA + 8, 4)).toBe(0x5a);
});

test.each([1, 2, 4])(
  'writes of %i bytes to the MSI-X table never reach the device',
  async (width) => {
    const { decode, vm, device } = await open();
    decode();
    for (let at = 0x2000; at < 0x2030; at += width) vm.write(GPA + at, width, 0xff);
    expect(device.written(0)).toEqual([]);
  },
);

test('MSI-X takes the line’s place, and the line comes back', async () => {
  const { decode, vm, pci, host, device } = await open();
  decode();
  expect(host.guest.lines.has(GSI)).toBe(true);
  expect(device.unmask).toBeDefined();

  void pci.space.write(MSIX + 2, 2, 0x8000);
  expect([...device.irqs.keys()]).toEqual([VFIO.msix]);
  expect(device.irqs.get(VFIO.msix)).toHaveLength(3);
  expect(host.guest.lines.has(GSI)).toBe(false);

  for (const [word, value] of [0xfee0_0000, 0, 0x4031, 0].entries())
    vm.write(GPA + 0x2010 + 4 * word, 4, value);
  device.irqs.get(VFIO.msix)?.[1]?.signal();
  expect(vm.msis.flatMap(({ sent }) => sent)).toEqual([0x4031]);

  void pci.space.write(MSIX + 2, 2, 0);
  expect([...device.irqs.keys()]).toEqual([VFIO.intx]);
});

test('MSI sends neighbouring data, as many as the guest has turned on', async () => {
  const { decode, vm, pci, device } = await open();
  decode();
  void pci.space.write(MSI + 4, 4, 0xfee0_1000);
  void pci.space.write(MSI + 12, 2, 0x4050);
  void pci.space.write(MSI + 2, 2, 0x21); // four of eight

  expect(device.irqs.get(VFIO.msi)).toHaveLength(4);
  for (const irq of device.irqs.get(VFIO.msi) ?? []) irq.signal();
  expect(vm.msis.flatMap(({ sent }) => sent)).toEqual([0x4050, 0x4051, 0x4052, 0x4053]);
});

test('a guest that wants no interrupts by the line gets none', async () => {
  const { pci, host } = await open();
  void pci.space.write(COMMAND, 2, 0x406);
  expect(host.guest.lines.size).toBe(0);
});

test('unplugged, it neither answers nor signals nor reads memory; then it is reset', async () => {
  const { decode, pci, vm, host, device, mapped } = await open();
  decode();

  pci.unplug();
  expect([mapped(), vm.claims, host.guest.lines.size, device.irqs.size]).toEqual([[], [], 0, 0]);
  expect(device.written(VFIO.configRegion).at(-1)).toEqual([COMMAND, 2, 2]);

  await pci[Symbol.asyncDispose]();
  await pci[Symbol.asyncDispose]();
  expect([device.resetCount, device.isClosed]).toEqual([1, true]);
  expect(vm.msis.every(({ calls }) => calls.includes('close'))).toBe(true);
});

test('a device that the host wants back is told of; one that is gone hurts nobody', async () => {
  const { decode, device, lost, vm, pci } = await open();
  decode();
  device.request?.();
  expect(lost()).toBe(1);

  device.isGone = true;
  vm.write(GPA + 8, 4, 1);
  void pci.space.write(COMMAND, 2, 0);
  expect([vm.read(GPA + 8, 4), pci.space.read(0, 4)]).toEqual([0xffff_ffff, 0x0010_1b36]);
  expect(pci.space.read(0x204, 4)).toBe(0xffff_ffff);
});

test('behind the virtio-iommu it reaches all memory at first, if endpoints there do', async () => {
  const domains = new IommuDomains(native, { addressBits: 64 });
  const reaches = async (iommu: boolean) => (await open(nvme(), { iommu }, domains)).host.reach;
  expect([await reaches(false), await reaches(true)]).toEqual([undefined, 'ram']);
  domains.isBypassed = false;
  expect(await reaches(true)).toBe('nothing');
});

const refusal = (given: Partial<VfioConfig> = {}, fault?: unknown): Promise<string> => {
  const host = new FakePassthroughHost();
  host.fault = fault;
  const config = { path, iommu: false, pci_segment: 0, x_exclude_mmap_bars: [], ...given };
  const context = { id: 'devices[0]', vm: new FakeVm(), passthrough: host, lineGsi: GSI };
  const rest = { placeBar: () => GPA, iommu: undefined, onWarning: () => {}, onReclaim: () => {} };
  return openHostDevice(config, { ...context, ...rest }).then(
    () => 'opened',
    (error) => errorChain(error).join(' | '),
  );
};

const use = (other: string, driver: string) => {
  const directory = join(sysfs, other);
  mkdirSync(directory);
  symlinkSync(join(sysfs, 'drivers', driver), join(directory, 'driver'));
  symlinkSync(directory, join(sysfs, 'groups/7/devices', other));
};

const DAMAGES: [string, () => void, RegExp][] = [
  [
    'is missing',
    () => rmSync(path, { recursive: true }),
    /invalid file path .*path of device .*04.0: name/,
  ],
  ['is no device', () => rmSync(join(path, 'class')), /invalid file path/],
  ['is a bridge', () => writeFileSync(join(path, 'class'), '0x060400\n'), /PCI bridge/],
  ['has no driver', () => rmSync(join(path, 'driver')), /not bound to vfio-pci, but to no driver/],
  [
    'has another driver',
    () => {
      rmSync(join(path, 'driver'));
      symlinkSync(join(sysfs, 'drivers/nvme'), join(path, 'driver'));
    },
    /but to nvme .*driver_override/,
  ],
  ['has no group', () => rmSync(join(path, 'iommu_group')), /no IOMMU group .*intel_iommu=on/],
  ['is grouped with one in use', () => use('0000:00:05.0', 'nvme'), /group 7 with 0000:00:05.0/],
];

test.each(DAMAGES)('a device that %s is refused with a remedy', async (_, damage, text) => {
  damage();
  expect(await refusal()).toMatch(text);
});

test('a device may share its group with others that are handed out, too', async () => {
  use('0000:00:05.0', 'vfio-pci');
  mkdirSync(join(sysfs, '0000:00:06.0'));
  symlinkSync(join(sysfs, '0000:00:06.0'), join(sysfs, 'groups/7/devices/0000:00:06.0'));
  expect(await refusal()).toBe('opened');
});

const sysError = (code: string, syscall: string) =>
  Object.assign(new Error(`${code}: Some words, ${syscall}`), { code, syscall, errno: -1 });

test.each([
  ['ENOENT', 'open(/dev/vfio/vfio)', /failed to open \/dev\/vfio\/vfio container .*vfio-pci/],
  ['EBUSY', 'open(VFIO group)', /already in use .*another VM/],
  ['EBUSY', 'ioctl(VFIO_GROUP_GET_DEVICE_FD)', /already in use/],
  ['EPERM', 'ioctl(VFIO_GROUP_GET_STATUS)', /shares its IOMMU group/],
  ['EACCES', 'open(VFIO group)', /cannot be opened .*access/],
  ['ENOMEM', 'ioctl(VFIO_IOMMU_MAP_DMA)', /cannot be locked .*RLIMIT_MEMLOCK/],
  ['EINVAL', 'ioctl(VFIO_IOMMU_MAP_DMA)', /iommu table .*max_phys_bits/],
  ['EBUSY', 'virtual IOMMU', /with another of the guest .*a group of its own/],
  ['ENOTSUP', 'virtual IOMMU', /no pages as small .*set iommu to off/],
])('%s of %s is told with a remedy', async (code, syscall, text) => {
  expect(await refusal({}, sysError(code, syscall))).toMatch(text);
});
