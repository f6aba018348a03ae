/**
 * virtio-fs: a directory of the host, served by a daemon over vhost-user. VIRTIO 1.2 §5.11.
 *
 * Data plane: that daemon, which shares the guest's RAM.
 */
import type { Static } from '@sinclair/typebox';
import { GIB } from '../../bytes.ts';
import { bool, object, option, pciFields, seedKey, text, uint } from '../../schema.ts';

export const FsConfig = object({
  ...pciFields,
  tag: text(),
  socket: text({ wire: { aliases: ['sock'] } }),
  num_queues: uint(53, { default: 1 }),
  queue_size: uint(16, { default: 1024 }),
  dax: option(bool(true, seedKey)),
  cache_size: option(uint(53, { default: 8 * GIB, ...seedKey })),
});
export type FsConfig = Static<typeof FsConfig>;
