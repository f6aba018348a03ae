import { expect, test } from 'vitest';
import type { PciFunction } from '../../../src/devices/device.ts';
import { ConfigSpace } from '../../../src/devices/pci/config-space.ts';
import { errorChain, VmmError } from '../../../src/errors.ts';
import { native } from '../../../src/native.ts';
import { object } from '../../../src/schema.ts';
import { type Kinds, withIommu } from '../../../src/vmm/devices.ts';
import { VmIommu } from '../../../src/vmm/iommu.ts';
import { Echo } from '../support/echo.ts';
import { FakeFollower } from '../support/fake-iommu.ts';
import { machine } from '../support/pci-machine.ts';

const SEGMENT_1_SLOT_1 = 0x1_0008;
const iommuOf = () => new VmIommu(native, { addressBits: 64, segments: [1] });

test('devices whose config says so are endpoints, and go with their devices', async () => {
  const iommu = iommuOf();
  const { attach, bus } = machine(() => new Echo(), {}, undefined, iommu);
  const devices = await attach({
    disks: [{ id: '_disk0', iommu: true }, { id: '_disk1' }],
    plain: [{ id: 'p', iommu: true, pci_segment: 1 }],
  });

  expect([...iommu.domains.endpoints]).toEqual([1 << 3, SEGMENT_1_SLOT_1]);
  devices.remove('_disk0');
  devices.eject({ segment: 0, slot: 1 });
  expect([...iommu.domains.endpoints]).toEqual([SEGMENT_1_SLOT_1]);
  await devices.dispose();
  expect([...iommu.domains.endpoints]).toEqual([]);
  expect(bus.ecam.read(1 << 15, 4)).toBe(0xffff_ffff);
});

const IDENTITY = { vendorId: 1, deviceId: 2, classCode: 3 };

/** A function that carries itself, and follows the mappings for itself. */
const passed = (follower: FakeFollower, onDisposed = () => {}): Kinds => ({
  passed: {
    ...{ schema: object({}), idPrefix: '_passed' },
    create: (): PciFunction => ({
      ...{ follower, bars: [], space: new ConfigSpace(IDENTITY) },
      ...{ pause: async () => {}, resume() {}, unplug() {} },
      async [Symbol.asyncDispose]() {
        onDisposed();
      },
    }),
  },
});

test('a function that follows mappings hears what it reaches, and at the end, nothing', async () => {
  const follower = new FakeFollower();
  const { attach } = machine(undefined, passed(follower), undefined, iommuOf());
  const devices = await attach({ passed: [{ id: 'p', iommu: true }], disks: [{ id: 'd' }] });
  expect(follower.log).toEqual(['ram']);
  await devices.dispose();
  expect(follower.log).toEqual(['ram']);
});

test('one that cannot reach what it is to reach is not there, and is disposed of', async () => {
  const follower = new FakeFollower();
  follower.refuses = () => 'ENOMEM';
  const iommu = iommuOf();
  let isDisposed = false;
  const kinds = passed(follower, () => {
    isDisposed = true;
  });
  const { attach, wanted, buses } = machine(undefined, kinds, undefined, iommu);
  const devices = await attach({});
  const refused = devices.add(wanted('passed', { iommu: true, pci_segment: 1 }));
  await expect(refused).rejects.toThrow('cannot put a device behind');
  expect([isDisposed, [...iommu.domains.endpoints]]).toEqual([true, []]);
  expect(buses[1]?.ecam.read(1 << 15, 4)).toBe(0xffff_ffff);
});

test('what is plugged can be in a segment behind the IOMMU, and nowhere else', async () => {
  const iommu = iommuOf();
  const { attach, wanted, made } = machine(() => new Echo(), {}, undefined, iommu);
  const devices = await attach({});

  const here = wanted('plain', { id: 'here', iommu: true, pci_segment: 1 });
  expect(await devices.add(here)).toEqual({ id: 'here', bdf: '0001:00:01.0' });
  expect(iommu.domains.hasEndpoint(SEGMENT_1_SLOT_1)).toBe(true);
  const there = devices.add(wanted('plain', { id: 'there', iommu: true }));
  const error = await there.catch((refusal) => refusal);
  expect(error).toBeInstanceOf(VmmError);
  expect(errorChain(error)).toEqual([
    'Error from device manager',
    'Cannot hotplug device behind vIOMMU',
    'plain[0].iommu is true on PCI segment 0: plug it into one of platform.iommu_segments, with ' +
      'which the VM is to be created',
  ]);
  expect(made.map(([id]) => id)).toEqual(['here']);
});

test('without an IOMMU nothing is plugged behind it', async () => {
  const { attach, wanted } = machine();
  const devices = await attach({});
  await expect(devices.add(wanted('plain', { id: 'p', iommu: true }))).rejects.toThrow(VmmError);
});

test('a config has an IOMMU if a device or a segment is to be behind it', () => {
  const rng = { src: '/s' };
  expect(withIommu({ rng, iommu: false }, [])).toEqual({ rng, iommu: false });
  expect(withIommu({ rng, iommu: true }, [])).toEqual({ rng, iommu: true });
  expect(withIommu({ rng, iommu: false }, [0])).toEqual({ rng, iommu: true });
  const behind = { ...rng, iommu: true };
  expect(withIommu({ rng: behind, iommu: false }, [])).toEqual({ rng: behind, iommu: true });
});
