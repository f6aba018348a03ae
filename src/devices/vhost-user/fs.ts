/**
 * virtio-fs: a directory of the host, served by a daemon over vhost-user. VIRTIO 1.2 §5.11.
 *
 * Data plane: that daemon, which shares the guest's RAM. There is no DAX window: `dax` and
 * `cache_size` are taken, and a guest mounts without `-o dax`.
 */
import type { Static } from '@sinclair/typebox';
import { GIB, Writer } from '../../bytes.ts';
import { VmmError } from '../../errors.ts';
import { bool, object, option, pciFields, seedKey, text, uint } from '../../schema.ts';
import { checkPlace } from './backend.ts';
import { type VhostUserContext, VhostUserDevice } from './device.ts';

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

/** Config space, §5.11.4. */
const NUM_REQUEST_QUEUES = 36;
const CONFIG_BYTES = 40;

/** One queue more than these is for requests of high priority, §5.11.2, and 256 is the most. */
const REQUEST_QUEUES_MAX = 255;

const placeOf = ({ socket }: FsConfig, at: string) => ({
  socket,
  field: `${at}.socket`,
  kind: 'virtio-fs',
});

/** @throws VmmError 'invalid-config' if there can be no such device. */
export function checkFs(config: FsConfig, at: string): void {
  checkPlace(placeOf(config, at));
  const { num_queues } = config;
  if (num_queues >= 1 && num_queues <= REQUEST_QUEUES_MAX) return;
  throw new VmmError(
    'invalid-config',
    'Failed to validate config',
    new Error(`Queue count of virtio-fs (${num_queues}) is not within 1 to ${REQUEST_QUEUES_MAX}`, {
      cause: new Error(`${at}.num_queues is ${num_queues}: give 1 to ${REQUEST_QUEUES_MAX}`),
    }),
  );
}

/** @throws VmmError 'invalid-config' or 'host' if there is no daemon for it. */
export function openFs(config: FsConfig, context: VhostUserContext): Promise<VhostUserDevice> {
  const { tag, num_queues, queue_size } = config;
  return VhostUserDevice.open(
    {
      ...placeOf(config, context.id),
      virtioId: 26,
      queueSizes: Array<number>(1 + num_queues).fill(queue_size),
      features: 0n,
      config: new Writer(CONFIG_BYTES).put(0, Buffer.from(tag)).u32(NUM_REQUEST_QUEUES, num_queues)
        .bytes,
    },
    context,
  );
}
