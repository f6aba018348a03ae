import { expect, test } from 'vitest';
import { normalise } from '../../../src/api/dialects.ts';
import { GIB, MIB } from '../../../src/bytes.ts';
import { deviceArea, MEMORY } from '../../../src/vmm/layout.ts';
import { Numa } from '../../../src/vmm/numa.ts';
import { segmentWindows } from '../../../src/vmm/pci-segments.ts';
import { atOnce } from '../support/fake-host.ts';
import { machine, SECOND_WINDOW } from '../support/pci-machine.ts';

function windows(physBits: number, body: object) {
  const { config } = normalise({ payload: { kernel: '/k' }, ...body });
  const area = deviceArea(physBits, 512 * MIB);
  return {
    area,
    all: segmentWindows(config, area, new Numa(config.numa ?? [], config.memory, area)),
  };
}

const segments = (num_pci_segments: number, pci_segments: object[] = []) => ({
  platform: { num_pci_segments },
  pci_segments,
});

test('one segment has all addresses', () => {
  const { area, all } = windows(40, {});

  expect(all).toEqual([{ window32: MEMORY.pci32, window64: area.pci64, node: undefined }]);
});

test('addresses are given out by weight, where the original has them', () => {
  const { area, all } = windows(40, {
    ...segments(2, [{ pci_segment: 0, mmio32_aperture_weight: 2 }]),
    numa: [{ guest_numa_id: 3, pci_segments: [1] }],
  });

  expect(all.map(({ window32 }) => window32.gpa)).toEqual([0xc000_0000, 0xdaaa_a000]);
  expect(all.map(({ window64 }) => window64.gpa)).toEqual([4 * GIB, 4 * GIB + 0x7f_0000_0000]);
  const last = all[1]?.window64;
  expect((last?.gpa ?? 0) + (last?.sizeBytes ?? 0)).toBe(area.pci64.gpa + area.pci64.sizeBytes);
  expect(all.map(({ node }) => node)).toEqual([undefined, 3]);
});

test('as many segments as there can be follow each other, all with room', () => {
  const { all } = windows(40, segments(96));

  for (const [i, { window32, window64 }] of all.entries()) {
    const before = all[i - 1];
    if (!before) continue;
    expect(window32.gpa).toBe(before.window32.gpa + before.window32.sizeBytes);
    expect(window64.gpa).toBe(before.window64.gpa + before.window64.sizeBytes);
    expect(window64.sizeBytes).toBeGreaterThanOrEqual(4 * GIB);
  }
});

test.each([
  [40, segments(2, [{ pci_segment: 0, mmio32_aperture_weight: 10_000 }]), 'BARs of 32 bits'],
  [40, segments(2, [{ pci_segment: 1, mmio64_aperture_weight: 10_000 }]), 'BARs of 64 bits'],
  [33, segments(40), 'more cpus.max_phys_bits'],
])('%d address bits and %j leave a segment without room', (bits, body, text) => {
  expect(() => windows(bits, body)).toThrow(text);
});

const on = (pci_segment: number, id: string, rest = {}) => ({ id, pci_segment, ...rest });

test('each segment has slots and addresses of its own, and a guest may be asked for any', async () => {
  const { attach, wanted, buses, told, removed } = machine();
  const devices = await attach({
    disks: [on(0, 'a', { pci_device_id: 4 }), on(1, 'b')],
    plain: [on(1, 'c'), on(1, 'd', { pci_device_id: 1 })],
  });

  expect(await devices.add(wanted('plain', on(1, 'e')))).toEqual({ id: 'e', bdf: '0001:00:04.0' });
  const tree = devices.nodes;
  const at = (id: string) => tree[`_virtio-pci-${id}`];
  expect(['a', 'b', 'c', 'd'].map((id) => at(id)?.pci_bdf)).toEqual([
    ...['0000:00:04.0', '0001:00:02.0', '0001:00:03.0', '0001:00:01.0'],
  ]);
  const bar = JSON.parse(JSON.stringify(at('b')?.resources[0])).PciBar;
  expect(bar.type_).toBe('Mmio64');
  expect(bar.base).toBeGreaterThanOrEqual(SECOND_WINDOW.gpa);
  expect(bar.base).toBeLessThan(SECOND_WINDOW.gpa + SECOND_WINDOW.sizeBytes);
  expect(buses.map(({ ecam }) => atOnce(ecam.read(4 << 15, 4)) >>> 16)).toEqual([0x106a, 0x106a]);

  devices.remove('e');
  devices.eject({ segment: 0, slot: 4 });
  devices.eject({ segment: 1, slot: 4 });
  await devices.pause();

  expect(told).toEqual(['plug 1:4', 'unplug 1:4', 'forget 1:4']);
  expect(removed).toEqual(['e 0001:00:04.0']);
  expect(devices.placeOf('b')).toEqual({ segment: 1, slot: 2 });
  expect(devices.placeOf('e')).toBeUndefined();
});
