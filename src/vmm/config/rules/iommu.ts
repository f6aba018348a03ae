/** What is behind the virtio-iommu, and what can be. */
import { pciDevices } from '../../devices.ts';
import { ADDRESS_BITS, isBehindIommu } from '../iommu.ts';
import type { Rule } from './rule.ts';

const addressWidth: Rule = ({ platform }) => {
  const bits = platform?.iommu_address_width_bits ?? ADDRESS_BITS.max;
  const { min, max } = ADDRESS_BITS;
  if (bits >= min && bits <= max) return undefined;
  const bound = bits > max ? `less than or equal to ${max}` : `greater than or equal to ${min}`;
  return {
    text: `IOMMU address width in bits (${bits}) should be ${bound}`,
    remedy: `platform.iommu_address_width_bits is ${bits}: give ${min} to ${max}`,
  };
};

/** The guest is told that whole segments are behind it, so each device there has to be. */
const wholeSegments: Rule = (config) => {
  const segments = config.platform?.iommu_segments ?? [];
  for (const { at, kind, config: own } of pciDevices(config)) {
    const segment = (own as { pci_segment?: number }).pci_segment ?? 0;
    if (kind.hasNoDma || !segments.includes(segment) || isBehindIommu(own)) continue;
    const canBe = kind.worksBehindIommu?.(own) ?? false;
    const reason = canBe ? 'not placed' : 'does not support being placed';
    return {
      text: `Device is on an IOMMU PCI segment (${segment}) but ${reason} behind IOMMU`,
      remedy:
        `${at} is on PCI segment ${segment} of platform.iommu_segments: ` +
        (canBe ? `set ${at}.iommu` : 'put it on another segment'),
    };
  }
  return undefined;
};

export const IOMMU_RULES: readonly Rule[] = [addressWidth, wholeSegments];
