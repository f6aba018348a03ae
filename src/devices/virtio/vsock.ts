/**
 * virtio-vsock: sockets between guest and host, over one Unix socket. VIRTIO 1.2 §5.10.
 *
 * Data plane: a native engine with the connection table; it decides nothing.
 */
import type { Static } from '@sinclair/typebox';
import { iommuFields, object, text, uint } from '../../schema.ts';

export const VsockConfig = object({
  ...iommuFields,
  cid: uint(32),
  socket: text({ wire: { aliases: ['sock'] } }),
});
export type VsockConfig = Static<typeof VsockConfig>;
