/** Which addresses the PCI segments of a VM have, and which NUMA node they are in. Pure. */
import { GIB, hex, MIB } from '../bytes.ts';
import { VmmError } from '../errors.ts';
import type { VmConfig } from './config.ts';
import { cutByWeight, type DeviceArea, type GpaRange, MEMORY } from './layout.ts';
import type { Numa } from './numa.ts';

export interface SegmentWindows {
  window32: GpaRange;
  window64: GpaRange;
  node: number | undefined;
}

// Segments begin at multiples of these in their window; where addresses are few, of the lesser one.
const STEP_32 = 4096;
const STEP_64 = { wide: 4 * GIB, narrow: 128 * MIB };

/** The least that is of use: a guest puts a bridge's BARs, if it has any, and shared files there. */
const LEAST = { window32: MIB, window64: 128 * MIB };

/** @throws VmmError 'invalid-config' if one of them gets next to none. */
export function segmentWindows(
  { platform, pci_segments = [] }: Pick<VmConfig, 'platform' | 'pci_segments'>,
  area: DeviceArea,
  numa: Numa,
): SegmentWindows[] {
  const count = platform?.num_pci_segments ?? 1;
  const weights = (field: 'mmio32_aperture_weight' | 'mmio64_aperture_weight'): number[] =>
    Array.from({ length: count }, (_, segment) => {
      const given = pci_segments.find(({ pci_segment }) => pci_segment === segment);
      return given?.[field] ?? 1;
    });
  const step64 = area.pci64.sizeBytes / count < STEP_64.wide ? STEP_64.narrow : STEP_64.wide;
  const all32 = cutByWeight(MEMORY.pci32, weights('mmio32_aperture_weight'), STEP_32);
  const all64 = cutByWeight(area.pci64, weights('mmio64_aperture_weight'), step64);
  return Array.from({ length: count }, (_, segment) => {
    const window32 = all32[segment] ?? MEMORY.pci32;
    const window64 = all64[segment] ?? area.pci64;
    if (count > 1) checkRoom(segment, { window32, window64 });
    return { window32, window64, node: numa.nodeOfSegment(segment) };
  });
}

function checkRoom(segment: number, windows: Pick<SegmentWindows, keyof typeof LEAST>): void {
  for (const name of ['window32', 'window64'] as const) {
    const { sizeBytes } = windows[name];
    if (sizeBytes >= LEAST[name]) continue;
    const bits = name === 'window32' ? 32 : 64;
    throw new VmmError(
      'invalid-config',
      `PCI segment ${segment} has ${hex(sizeBytes)} bytes of addresses for BARs of ${bits} bits, ` +
        `and needs ${hex(LEAST[name])}: give it more mmio${bits}_aperture_weight in pci_segments, ` +
        'or the VM fewer platform.num_pci_segments or more cpus.max_phys_bits',
    );
  }
}
