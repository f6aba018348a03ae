/** How much the firmware tables can tell of. */
import { expect, test } from 'vitest';
import { MIB } from '../../src/bytes.ts';
import { VmmError } from '../../src/errors.ts';
import { buildAcpi } from '../../src/vmm/acpi/tables.ts';
import { bareGuest } from '../support/bare-guest.ts';
import { VmmProcess } from './support/vmm-process.ts';

const NODES = 128;
const [VCPUS, SEGMENTS, ZONES] = [254, 96, 48];

/** Which of so many things are in a node, where all are given out in turn. */
const share = (count: number, node: number): number[] =>
  Array.from({ length: count }, (_, i) => i).filter((i) => i % NODES === node);

test('a VM of as many vCPUs, segments, zones and nodes as there can be boots', async () => {
  await using vmm = await VmmProcess.start();
  const zoneId = (i: number) => `zone${i}`;
  const config = {
    payload: { kernel: bareGuest('echo') },
    cpus: { boot_vcpus: 1, max_vcpus: VCPUS },
    platform: { num_pci_segments: SEGMENTS },
    memory: {
      size: 0,
      zones: Array.from({ length: ZONES }, (_, i) => ({ id: zoneId(i), size: 2 * MIB })),
    },
    numa: Array.from({ length: NODES }, (_, node) => ({
      guest_numa_id: node,
      cpus: share(VCPUS, node),
      pci_segments: share(SEGMENTS, node),
      memory_zones: share(ZONES, node).map(zoneId),
      device_id: 'v',
    })),
    vsock: { id: 'v', cid: 3, socket: `${vmm.folder}/v` },
    console: { mode: 'Off' },
    serial: { mode: 'Null' },
  };

  expect((await vmm.put('vm.create', config)).text).toContain(' 204 ');
  expect((await vmm.put('vm.boot')).text).toContain(' 204 ');
  expect((await vmm.get('vm.info')).body).toMatchObject({ state: 'Running' });
});

test('tables that do not fit are refused, with what to give the VM less of', () => {
  const ranges = Array.from({ length: 20_000 }, (_, i) => {
    return { endpoint: 8 * i, segment: 0, firstBdf: 8, lastBdf: 8 };
  });
  const build = () =>
    buildAcpi([], { processors: [], segments: 1, iommu: { segment: 0, slot: 1, ranges } });

  expect(build).toThrow(VmmError);
  expect(build).toThrow(/take 48\d{4} bytes, for which there are 327680: give the VM less of plat/);
});
