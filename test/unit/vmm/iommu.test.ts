import { expect, test } from 'vitest';
import { errorChain, VmmError } from '../../../src/errors.ts';
import { native } from '../../../src/native.ts';
import { withIommu } from '../../../src/vmm/devices.ts';
import { VmIommu } from '../../../src/vmm/iommu.ts';
import { Echo } from '../support/echo.ts';
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
  await devices.dispose();
  expect([...iommu.domains.endpoints]).toEqual([SEGMENT_1_SLOT_1]);
  expect(bus.ecam.read(1 << 15, 4)).toBe(0xffff_ffff);
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
