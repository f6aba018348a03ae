/**
 * virtio-blk: a disk for the guest, from an image file or a block device. VIRTIO 1.2 §5.2.
 *
 * Data plane: a native engine, one thread a queue; it decides nothing.
 */
import type { Static } from '@sinclair/typebox';
import {
  bool,
  choice,
  iommuFields,
  list,
  object,
  option,
  RateLimiterConfig,
  seedOnly,
  text,
  uint,
} from '../../schema.ts';

export const DiskConfig = object({
  ...iommuFields,
  path: option(text()),
  readonly: bool(false),
  direct: bool(false),
  num_queues: uint(53, { default: 1 }),
  queue_size: uint(16, { default: 128 }),
  vhost_user: bool(false),
  vhost_socket: option(text({ cli: { key: 'socket' } })),
  rate_limit_group: option(text()),
  rate_limiter_config: option(RateLimiterConfig),
  disable_io_uring: bool(false, { cli: { key: '_disable_io_uring' } }),
  disable_aio: bool(false, { cli: { key: '_disable_aio' } }),
  serial: option(text()),
  queue_affinity: option(list(object({ queue_index: uint(16), host_cpus: list(uint(32)) }))),
  backing_files: bool(false),
  sparse: bool(true),
  image_type: choice(['FixedVhd', 'Qcow2', 'Raw', 'Vhdx', 'Unknown'], {
    default: 'Unknown',
    cli: { words: { vhd: 'FixedVhd', qcow2: 'Qcow2', raw: 'Raw', vhdx: 'Vhdx' } },
  }),
  lock_granularity: choice(['ByteRange', 'Full'], { default: 'ByteRange' }),
  wce: option(bool(true, seedOnly)),
  poll_queue: option(bool(true, seedOnly)),
});
export type DiskConfig = Static<typeof DiskConfig>;
