/** Which PCI device of the host's own a guest gets. */
import type { Static } from '@sinclair/typebox';
import { iommuFields, list, object, option, text, uint } from '../../schema.ts';

export const VfioConfig = object({
  ...iommuFields,
  /** The device's directory in sysfs. */
  path: option(text()),
  fd: option(uint(32, { wire: { fd: true } })),
  x_nv_gpudirect_clique: option(uint(8)),
  /** BARs that the guest reaches by exits alone. */
  x_exclude_mmap_bars: list(uint(8), { default: [] }),
});
export type VfioConfig = Static<typeof VfioConfig>;

/** What of a config nothing serves yet. */
export function unservedVfio(config: VfioConfig): string[] {
  const { fd, x_nv_gpudirect_clique: clique } = config;
  return [
    ...(fd === undefined ? [] : [' fd']),
    ...(clique === undefined ? [] : [' x_nv_gpudirect_clique']),
  ];
}
