/**
 * virtio-net: a network card for the guest, on a tap of the host. VIRTIO 1.2 §5.1.
 *
 * Data plane: a native engine, one thread a queue pair; it decides nothing.
 */
import type { Static } from '@sinclair/typebox';
import {
  bool,
  choice,
  iommuFields,
  ipv4,
  list,
  mac,
  object,
  option,
  RateLimiterConfig,
  text,
  uint,
} from '../../schema.ts';

export const NetConfig = object({
  ...iommuFields,
  tap: option(text()),
  ip: option(ipv4({ wire: { seedDefault: '192.168.249.1' } })),
  mask: option(ipv4({ wire: { seedDefault: '255.255.255.0' } })),
  /** Drawn when the config is read, so that it outlives reboots. */
  mac: mac({ drawn: true }),
  host_mac: option(mac()),
  mtu: option(uint(16)),
  num_queues: uint(53, { default: 2 }),
  queue_size: uint(16, { default: 256 }),
  vhost_user: bool(false),
  vhost_socket: option(text({ cli: { key: 'socket' } })),
  vhost_mode: choice(['Client', 'Server'], { default: 'Client' }),
  fds: option(list(uint(32), { cli: { key: 'fd' }, wire: { fd: true } })),
  rate_limiter_config: option(RateLimiterConfig),
  offload_tso: bool(true),
  offload_ufo: bool(true),
  offload_csum: bool(true),
});
export type NetConfig = Static<typeof NetConfig>;
