/** Which capabilities of a device of the host's own its guest sees. */
import { Reader } from '../../bytes.ts';
import {
  CAPABILITIES_POINTER,
  HEADER_BYTES,
  SPACE_BYTES,
  STATUS,
  STATUS_CAPABILITIES,
} from '../pci/config-space.ts';

/** PCI Code and ID Assignment 1.11 §2. */
export const CAPABILITY = {
  powerManagement: 0x01,
  msi: 0x05,
  vendor: 0x09,
  subsystem: 0x0d,
  pciExpress: 0x10,
  msix: 0x11,
  advancedFeatures: 0x13,
} as const;
const KEPT: readonly number[] = Object.values(CAPABILITY);

/**
 * The same §3: what is about other functions, other buses or translation of addresses, of which a
 * guest has none. ARI, ATS, SR-IOV, page requests, resizable BARs, PASID, DPC, and those of VFs.
 */
const HIDDEN_EXTENDED: readonly number[] = [0x0e, 0x0f, 0x10, 0x11, 0x13, 0x15, 0x1b, 0x1d, 0x24];

export interface Found {
  id: number;
  offset: number;
  /** Where the next one begins, or the standard ones end. */
  end: number;
}

export interface ExtendedHeader {
  offset: number;
  header: number;
}

export interface Chain {
  kept: readonly Found[];
  extended: readonly ExtendedHeader[];
}

/** A device may say anything: each offset is looked at once. */
export function findCapabilities(space: Uint8Array): Chain {
  const fields = new Reader(space);
  const found: { id: number; offset: number }[] = [];
  const has = (fields.u16(STATUS) & STATUS_CAPABILITIES) !== 0;
  let at = has ? fields.u8(CAPABILITIES_POINTER) & ~3 : 0;
  while (at >= HEADER_BYTES && !found.some(({ offset }) => offset === at)) {
    found.push({ id: fields.u8(at), offset: at });
    at = fields.u8(at + 1) & ~3;
  }
  const starts = found.map(({ offset }) => offset).sort((a, b) => a - b);
  const kept = found
    .filter(({ id }) => KEPT.includes(id))
    .map((one) => ({
      ...one,
      end: starts.find((start) => start > one.offset) ?? SPACE_BYTES,
    }));
  return { kept, extended: findExtended(fields) };
}

function findExtended(fields: Reader): ExtendedHeader[] {
  const found: ExtendedHeader[] = [];
  let at = SPACE_BYTES;
  while (
    at >= SPACE_BYTES &&
    at + 4 <= fields.sizeBytes &&
    !found.some(({ offset }) => offset === at)
  ) {
    const header = fields.u32(at);
    if (header === 0 || header === 0xffff_ffff) break;
    found.push({ offset: at, header });
    at = (header >>> 20) & ~3;
  }
  return found;
}

/** The headers of all, linked past those that are hidden. The first must stay: it gets no id. */
export function rewriteExtended(all: readonly ExtendedHeader[]): ExtendedHeader[] {
  const isShown = ({ header }: ExtendedHeader) => !HIDDEN_EXTENDED.includes(header & 0xffff);
  const chain = all.filter((one, i) => i === 0 || isShown(one));
  const linked = chain.map((one, i) => {
    const own = isShown(one) ? one.header & 0xf_ffff : 0;
    return { offset: one.offset, header: (own | ((chain[i + 1]?.offset ?? 0) << 20)) >>> 0 };
  });
  const gone = all.filter((one) => !chain.includes(one)).map((one) => ({ ...one, header: 0 }));
  return [...linked, ...gone];
}
