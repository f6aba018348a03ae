/** The table of what is behind the virtio-iommu, as ACPICA reads it. */
import { expect, test } from 'vitest';
import { Reader } from '../../src/bytes.ts';
import { native } from '../../src/native.ts';
import { buildAcpi } from '../../src/vmm/acpi/tables.ts';
import { VmIommu } from '../../src/vmm/iommu.ts';
import { FakeEndpoint } from '../unit/support/fake-iommu.ts';
import { recompile, tablesOf } from './support/acpica.ts';

/** Two devices by themselves, and a segment of which one more is in. */
function viot(): Uint8Array {
  const iommu = new VmIommu(native, { addressBits: 64, segments: [2] });
  for (const [segment, slot] of [
    [0, 3],
    [2, 1],
    [1, 31],
  ] as const)
    void iommu.add({ segment, slot }, new FakeEndpoint());
  const { ranges } = iommu;
  const tables = buildAcpi([], {
    processors: [{ apicId: 0, present: true }],
    segments: 3,
    iommu: { segment: 0, slot: 4, ranges },
  });
  const bytes = tablesOf(tables).get('VIOT')?.bytes;
  if (!bytes) throw new Error('No VIOT');
  return bytes;
}

test('the VIOT is recompiled by iasl without error or warning', async () => {
  const { verdict } = await recompile('VIOT', viot());

  expect(verdict).toContain(' 0 Errors, 0 Warnings');
});

test('the VIOT has the IOMMU, whole segments, and the others one by one', () => {
  const bytes = viot();
  const read = new Reader(bytes);
  const words = (at: number, count: number) =>
    Array.from({ length: count }, (_, i) => read.u16(at + 2 * i));

  expect(words(36, 6)).toEqual([4, 48, 0, 0, 0, 0]);
  expect(words(48, 8)).toEqual([3, 16, 0, 4 << 3, 0, 0, 0, 0]);
  const range = (i: number) => words(64 + 24 * i, 12);
  expect([0, 1, 2].map(range)).toEqual([
    [1, 24, 0, 2, 2, 2, 0, 0xff, 48, 0, 0, 0],
    [1, 24, 3 << 3, 0, 0, 0, 3 << 3, 3 << 3, 48, 0, 0, 0],
    [1, 24, 31 << 3, 1, 1, 1, 31 << 3, 31 << 3, 48, 0, 0, 0],
  ]);
  expect(bytes).toHaveLength(64 + 3 * 24);
});

test('there is none without an IOMMU', () => {
  const tables = buildAcpi([], { processors: [{ apicId: 0, present: true }], segments: 1 });
  expect(tablesOf(tables).has('VIOT')).toBe(false);
});
