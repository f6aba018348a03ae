import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { GIB, KIB, MIB } from '../../../src/bytes.ts';
import {
  deviceArea,
  E820_RAM,
  E820_RESERVED,
  e820,
  ramRegions,
  zoneRegions,
} from '../../../src/vmm/layout.ts';

const PAGE = 4 * KIB;
const ramBytes = fc.integer({ min: MIB / PAGE, max: 2 ** 42 / PAGE }).map((pages) => pages * PAGE);

describe('ramRegions', () => {
  test.each([
    [512 * MIB, [[0, 512 * MIB]]],
    [3 * GIB, [[0, 3 * GIB]]],
    [
      3 * GIB + PAGE,
      [
        [0, 3 * GIB],
        [4 * GIB, PAGE],
      ],
    ],
    [
      8 * GIB,
      [
        [0, 3 * GIB],
        [4 * GIB, 5 * GIB],
      ],
    ],
  ])('%i bytes are split at the hole', (size, regions) => {
    expect(ramRegions(size).map(({ gpa, sizeBytes }) => [gpa, sizeBytes])).toEqual(regions);
  });
});

const SIZES = fc.array(
  fc.integer({ min: 1, max: 2 ** 20 }).map((pages) => pages * PAGE),
  { minLength: 1, maxLength: 8 },
);

test('zones follow each other, and make up RAM', () => {
  fc.assert(
    fc.property(SIZES, (sizes) => {
      const zones = zoneRegions(sizes);

      const end = ({ gpa, sizeBytes }: { gpa: number; sizeBytes: number }) => gpa + sizeBytes;
      const all = zones.flat().flatMap((piece) => [piece.gpa, end(piece)]);
      expect(zones.map((zone) => zone.reduce((sum, piece) => sum + piece.sizeBytes, 0))).toEqual(
        sizes,
      );
      expect(all).toEqual([...all].sort((a, b) => a - b));
      const edges = ramRegions(sizes.reduce((sum, size) => sum + size, 0));
      expect(all[0]).toBe(0);
      expect(all.at(-1)).toBe(end(edges.at(-1) ?? { gpa: 0, sizeBytes: 0 }));
      expect(all.filter((at) => at > 3 * GIB && at < 4 * GIB)).toEqual([]);
    }),
  );
});

describe('e820', () => {
  test('gives low RAM, RAM from 1 MiB, RAM above the hole, then what is reserved', () => {
    expect(e820(4 * GIB)).toEqual([
      { gpa: 0, sizeBytes: 0xa_0000, type: E820_RAM },
      { gpa: MIB, sizeBytes: 3 * GIB - MIB, type: E820_RAM },
      { gpa: 4 * GIB, sizeBytes: GIB, type: E820_RAM },
      { gpa: 0xa_0000, sizeBytes: 0x6_0000, type: E820_RESERVED },
      { gpa: 0xe800_0000, sizeBytes: 256 * MIB, type: E820_RESERVED },
    ]);
  });

  test('accounts for all RAM but what lies from 640 KiB to 1 MiB, with no overlap', () => {
    fc.assert(
      fc.property(ramBytes, (size) => {
        const entries = e820(size).sort((a, b) => a.gpa - b.gpa);
        const ram = entries.filter(({ type }) => type === E820_RAM);
        expect(ram.reduce((sum, { sizeBytes }) => sum + sizeBytes, 0)).toBe(size - 384 * KIB);
        for (const [i, { gpa }] of entries.entries()) {
          const below = entries[i - 1];
          expect(below ? below.gpa + below.sizeBytes : 0).toBeLessThanOrEqual(gpa);
        }
      }),
    );
  });
});

describe('deviceArea', () => {
  test('ends 1 MiB and 64 KiB below the last physical address, as the original has it', () => {
    expect(deviceArea(40, 512 * MIB)).toEqual({
      pluggable: [],
      pci64: { gpa: 4 * GIB, sizeBytes: 0xff_ffef_0000 - 4 * GIB },
      ged: { gpa: 0xff_ffef_0000, sizeBytes: 1 },
      cpuHotplug: { gpa: 0xff_ffef_0010, sizeBytes: 0xc },
      memoryHotplug: { gpa: 0xff_ffef_0020, sizeBytes: 0x18 },
      pciHotplug: { gpa: 0xff_ffef_0040, sizeBytes: 0x10 },
    });
  });

  test('starts where RAM ends', () => {
    expect(deviceArea(46, 8 * GIB).pci64.gpa).toBe(9 * GIB);
  });

  test.each([
    [512 * MIB, 2 * GIB, { gpa: 4 * GIB, sizeBytes: 2 * GIB }],
    [3 * GIB + 4096, GIB, { gpa: 4 * GIB + 128 * MIB, sizeBytes: GIB }],
    [8 * GIB, GIB + 128 * MIB - 1, { gpa: 9 * GIB, sizeBytes: GIB }],
  ])('with %i bytes of RAM, %i more can be plugged before it', (ram, hotplug, pluggable) => {
    const area = deviceArea(46, ram, [{ sizeBytes: hotplug, alignBytes: 2 * MIB }]);

    expect(area.pluggable).toEqual([pluggable]);
    expect(area.pci64.gpa).toBe(pluggable.gpa + pluggable.sizeBytes);
  });

  test('each zone has a place for what may come, from a multiple of its pages on', () => {
    const plug = (sizeBytes: number, alignBytes = 2 * MIB) => ({ sizeBytes, alignBytes });

    const plugs = [plug(GIB / 2), plug(0), plug(2 * GIB, GIB)];
    const { pluggable, pci64 } = deviceArea(46, 3 * GIB + PAGE, plugs);

    expect(pluggable[0]).toEqual({ gpa: 4 * GIB + 128 * MIB, sizeBytes: GIB / 2 });
    expect(pluggable[1]?.sizeBytes).toBe(0);
    expect(pluggable[2]).toEqual({ gpa: 5 * GIB, sizeBytes: 2 * GIB });
    expect(pci64.gpa).toBe(7 * GIB);
  });

  test('RAM to be plugged that leaves no room is refused', () => {
    expect(() => deviceArea(36, 512 * MIB, [{ sizeBytes: 64 * GIB, alignBytes: MIB }])).toThrow(
      /68719476736 to be plugged/,
    );
  });

  test('RAM that leaves no room is refused with the width that is too small', () => {
    expect(() => deviceArea(36, 64 * GIB)).toThrow(/68719476736 bytes.*36 physical address bits/);
    expect(() => deviceArea(32, 512 * MIB)).toThrow(/32 physical address bits/);
  });
});
