/**
 * Any virtio device whose backend speaks vhost-user and needs nothing of the VMM but its queues.
 *
 * Data plane: that backend, which shares the guest's RAM.
 */
import type { Static } from '@sinclair/typebox';
import { list, object, pciFields, text, uint } from '../../schema.ts';

/** VIRTIO 1.2 §5, Device Types: the names that the command line takes. */
const VIRTIO_IDS = {
  net: 1,
  block: 2,
  console: 3,
  rng: 4,
  balloon: 5,
  scsi: 8,
  gpu: 16,
  rtc: 17,
  input: 18,
  vsock: 19,
  crypto: 20,
  iommu: 23,
  mem: 24,
  sound: 25,
  fs: 26,
  pmem: 27,
  i2c: 34,
  can: 36,
  gpio: 41,
};

export const GenericVhostUserConfig = object({
  ...pciFields,
  socket: text(),
  queue_sizes: list(uint(16)),
  device_type: uint(32, {
    cli: { aliases: ['virtio_id'], words: VIRTIO_IDS },
    wire: { aliases: ['virtio_id'] },
  }),
});
export type GenericVhostUserConfig = Static<typeof GenericVhostUserConfig>;
