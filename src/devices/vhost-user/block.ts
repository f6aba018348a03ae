/**
 * A disk that a backend serves, as SPDK or qemu-storage-daemon. VIRTIO 1.2 §5.2.
 *
 * Data plane: that backend, which shares the guest's RAM.
 */
import { checkPlace } from './backend.ts';
import { type Personality, type VhostUserContext, VhostUserDevice } from './device.ts';

/** What of a disk's config is of use here. */
export interface VhostUserDiskConfig {
  readonly vhost_socket?: string;
  readonly num_queues: number;
  readonly queue_size: number;
  readonly readonly: boolean;
  readonly wce?: boolean;
}

// Feature bits, §5.2.3: all whose part of the configuration space lies within what we read of it.
const F_RO = 1n << 5n;
const F_CONFIG_WCE = 1n << 11n;
const F_MQ = 1n << 12n;
const F_OTHERS = [1n, 2n, 4n, 6n, 9n, 10n, 13n, 14n].reduce((all, bit) => all | (1n << bit), 0n);

// Configuration space, §5.2.4.
const WRITEBACK = 32;
const NUM_QUEUES = 34;
const CONFIG_BYTES = 60;

const placeOf = ({ vhost_socket = '' }: VhostUserDiskConfig, at: string) => ({
  socket: vhost_socket,
  field: `${at}.vhost_socket`,
  kind: 'vhost-user-blk',
});

/** @throws VmmError 'invalid-config' if no backend can listen there. */
export const checkVhostUserBlock = (config: VhostUserDiskConfig, at: string): void =>
  checkPlace(placeOf(config, at));

/** @throws VmmError 'invalid-config' or 'host' if there is no backend for the disk. */
export function openVhostUserBlock(
  config: VhostUserDiskConfig,
  context: VhostUserContext,
): Promise<VhostUserDevice> {
  const { num_queues, queue_size, readonly, wce = true } = config;
  const personality: Personality = {
    ...placeOf(config, context.id),
    virtioId: 2,
    queueSizes: Array<number>(num_queues).fill(queue_size),
    features: F_OTHERS | F_RO | (wce ? F_CONFIG_WCE : 0n) | (num_queues > 1 ? F_MQ : 0n),
    driverFeatures: readonly ? F_RO : 0n,
    config: CONFIG_BYTES,
    isStateless: true,
    // The backend may have more queues than the disk.
    adjust: (space) =>
      void new DataView(space.buffer, space.byteOffset).setUint16(NUM_QUEUES, num_queues, true),
    isWritable: (offset, sizeBytes) => offset === WRITEBACK && sizeBytes === 1,
  };
  return VhostUserDevice.open(personality, context);
}
