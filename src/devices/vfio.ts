/**
 * Passthrough of PCI devices: of the host's own by VFIO, of another process's by vfio-user.
 *
 * Data plane: the device, which reads and writes the guest's RAM; this file serves config space.
 */
import type { Static } from '@sinclair/typebox';
import { iommuFields, list, object, option, pciFields, text, uint } from '../schema.ts';

export const VfioConfig = object({
  ...iommuFields,
  /** The device's directory in sysfs. */
  path: option(text()),
  fd: option(uint(32, { wire: { fd: true } })),
  x_nv_gpudirect_clique: option(uint(8)),
  x_exclude_mmap_bars: list(uint(8), { default: [] }),
});
export type VfioConfig = Static<typeof VfioConfig>;

export const UserDeviceConfig = object({ ...pciFields, socket: text() });
export type UserDeviceConfig = Static<typeof UserDeviceConfig>;
