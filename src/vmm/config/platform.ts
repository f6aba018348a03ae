/** What the guest boots, and the machine around its CPUs, memory and devices. */
import type { Static } from '@sinclair/typebox';
import {
  bool,
  list,
  object,
  option,
  RateLimiterConfig,
  seedOnly,
  text,
  uint,
} from '../../schema.ts';

export const PayloadConfig = object({
  firmware: option(text()),
  kernel: option(text()),
  cmdline: option(text()),
  initramfs: option(text()),
  igvm: option(text()),
  host_data: option(text()),
});
export type PayloadConfig = Static<typeof PayloadConfig>;

/** How the dialect of 2020, and its heirs until 2022, say the same. */
export const seedPayload = {
  kernel: option(object({ path: text() }, seedOnly)),
  cmdline: option(object({ args: text() }, { ...seedOnly, default: { args: '' } })),
  initramfs: option(object({ path: text() }, seedOnly)),
};

export const RateLimitGroupConfig = object({
  id: text(),
  rate_limiter_config: RateLimiterConfig,
});

export const NumaConfig = object({
  guest_numa_id: uint(32, { cli: { default: 0 } }),
  cpus: option(list(uint(32))),
  distances: option(list(object({ destination: uint(32), distance: uint(8) }))),
  memory_zones: option(list(text())),
  pci_segments: option(list(uint(16))),
  device_id: option(text()),
});
export type NumaConfig = Static<typeof NumaConfig>;

export const PciSegmentConfig = object({
  pci_segment: uint(16, { default: 0 }),
  mmio32_aperture_weight: uint(32, { default: 1 }),
  mmio64_aperture_weight: uint(32, { default: 1 }),
});

const renamed = (alias: string) =>
  option(text({ cli: { aliases: [alias] }, wire: { aliases: [alias] } }));

export const PlatformConfig = object({
  num_pci_segments: uint(16, { default: 1 }),
  iommu_segments: option(list(uint(16))),
  iommu_address_width_bits: uint(8, { default: 64, cli: { key: 'iommu_address_width' } }),
  system_serial_number: renamed('serial_number'),
  system_uuid: renamed('uuid'),
  oem_strings: option(list(text())),
  system_manufacturer: option(text()),
  system_product_name: option(text()),
  system_version: option(text()),
  system_family: option(text()),
  system_sku_number: option(text()),
  chassis_asset_tag: option(text()),
  tdx: option(bool(false, { cli: { hidden: true }, wire: { omitFalse: true } })),
  sev_snp: option(bool(false, { cli: { hidden: true }, wire: { omitFalse: true } })),
  iommufd: bool(false),
  iommufd_fd: option(uint(32, { wire: { fd: true } })),
  vfio_p2p_dma: bool(true),
});
export type PlatformConfig = Static<typeof PlatformConfig>;

export const LandlockConfig = object({ path: text(), access: text() });
export type LandlockConfig = Static<typeof LandlockConfig>;
