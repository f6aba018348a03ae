/**
 * virtio-balloon: RAM that the guest lends back. VIRTIO 1.2 §5.5.
 *
 * Data plane: this file. Pages come in batches, and discarding them is a worker's task.
 */
import type { Static } from '@sinclair/typebox';
import { bool, iommuFields, object, size } from '../../schema.ts';

export const BalloonConfig = object({
  ...iommuFields,
  size: size({ cli: { default: 0 } }),
  deflate_on_oom: bool(false),
  free_page_reporting: bool(false),
});
export type BalloonConfig = Static<typeof BalloonConfig>;
