/**
 * virtio-pmem: a host file mapped into the guest as persistent memory. VIRTIO 1.2 §5.19.
 *
 * Data plane: the mapping itself; this file serves the flush requests.
 */
import type { Static } from '@sinclair/typebox';
import { bool, iommuFields, object, option, seedKey, size, text } from '../../schema.ts';

export const PmemConfig = object({
  ...iommuFields,
  file: text(),
  /** The file's own size where it isn't given. */
  size: option(size()),
  discard_writes: bool(false),
  mergeable: option(bool(false, seedKey)),
});
export type PmemConfig = Static<typeof PmemConfig>;
