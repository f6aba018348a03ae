/** The ACPI table of who is behind the virtio-iommu. ACPI 6.5 §5.2.31 (VIOT). */
import { Writer } from '../../bytes.ts';
import type { PciPlace } from '../../devices/device.ts';
import { HEADER_BYTES, table } from './header.ts';

/** PCI functions that it translates for. */
export interface IommuRange {
  /** What the guest calls the first of them; the others follow. */
  endpoint: number;
  segment: number;
  /** Bus, device and function in 16 bits, both ends included. */
  firstBdf: number;
  lastBdf: number;
}

/** Where it is, on bus 0, and whom it translates for. */
export interface IommuTables extends PciPlace {
  ranges: readonly IommuRange[];
}

const HEAD_BYTES = 12;
/** Where the first node stands in the table: that of the IOMMU, by which the others name it. */
const IOMMU_OFFSET = HEADER_BYTES + HEAD_BYTES;

// Types of nodes.
const PCI_RANGE = 1;
const VIRTIO_IOMMU_PCI = 3;

export function viot({ segment, slot, ranges }: IommuTables): Uint8Array {
  const head = new Writer(HEAD_BYTES).u16(0, 1 + ranges.length).u16(2, IOMMU_OFFSET);
  const iommu = new Writer(16)
    .u8(0, VIRTIO_IOMMU_PCI)
    .u16(2, 16)
    .u16(4, segment)
    .u16(6, slot << 3);
  return table('VIOT', 0, Buffer.concat([head.bytes, iommu.bytes, ...ranges.map(pciRange)]));
}

const pciRange = ({ endpoint, segment, firstBdf, lastBdf }: IommuRange): Uint8Array =>
  new Writer(24)
    .u8(0, PCI_RANGE)
    .u16(2, 24)
    .u32(4, endpoint)
    .u16(8, segment)
    .u16(10, segment)
    .u16(12, firstBdf)
    .u16(14, lastBdf)
    .u16(16, IOMMU_OFFSET).bytes;
