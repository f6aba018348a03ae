/**
 * vDPA: a virtio device in hardware, or in the host's kernel, behind /dev/vhost-vdpa-N.
 *
 * Data plane: that device.
 */
import type { Static } from '@sinclair/typebox';
import { iommuFields, object, text, uint } from '../schema.ts';

export const VdpaConfig = object({
  ...iommuFields,
  path: text(),
  num_queues: uint(53, { default: 1 }),
});
export type VdpaConfig = Static<typeof VdpaConfig>;
