/**
 * virtio-fs: a directory of the host, served by a daemon over vhost-user. VIRTIO 1.2 §5.11.
 *
 * Data plane: that daemon, which shares the guest's RAM. With `dax` there is a window besides, where
 * it puts parts of files for a guest that mounts with `-o dax`; most daemons do not.
 */
import type { Static } from '@sinclair/typebox';
import { GIB, MIB, Writer } from '../../bytes.ts';
import { VmmError } from '../../errors.ts';
import { bool, object, option, pciFields, seedKey, size, text, uint } from '../../schema.ts';
import { checkPlace } from './backend.ts';
import { type VhostUserContext, VhostUserDevice } from './device.ts';

const CACHE_BYTES = 8 * GIB;

export const FsConfig = object({
  ...pciFields,
  tag: text(),
  socket: text({ cli: { aliases: ['sock'] }, wire: { aliases: ['sock'] } }),
  num_queues: uint(53, { default: 1 }),
  queue_size: uint(16, { default: 1024 }),
  dax: option(bool(true, seedKey)),
  /** Of the window of `dax`. */
  cache_size: option(size({ default: CACHE_BYTES, ...seedKey })),
});
export type FsConfig = Static<typeof FsConfig>;

/** Config space, §5.11.4. */
const NUM_REQUEST_QUEUES = 36;
const CONFIG_BYTES = 40;

/** One queue more than these is for requests of high priority, §5.11.2, and 256 is the most. */
const REQUEST_QUEUES_MAX = 255;

/** Linux makes memory of it by sections of so much. */
const CACHE_STEP_BYTES = 2 * MIB;

/** KVM maps less than 8 TiB at once. */
const CACHE_BYTES_MAX = 2 ** 42;

/** 0 if there is no window. */
const cacheBytes = ({ cache_size, dax = cache_size !== undefined }: FsConfig): number =>
  dax ? (cache_size ?? CACHE_BYTES) : 0;

const placeOf = ({ socket }: FsConfig, at: string) => ({
  socket,
  field: `${at}.socket`,
  kind: 'virtio-fs',
});

/** @throws VmmError 'invalid-config' if there can be no such device. */
export function checkFs(config: FsConfig, at: string): void {
  checkPlace(placeOf(config, at));
  const { num_queues, cache_size = CACHE_BYTES } = config;
  if (num_queues < 1 || num_queues > REQUEST_QUEUES_MAX)
    throw refusal(
      `Queue count of virtio-fs (${num_queues}) is not within 1 to ${REQUEST_QUEUES_MAX}`,
      `${at}.num_queues is ${num_queues}: give 1 to ${REQUEST_QUEUES_MAX}`,
    );
  const isSize = cache_size % CACHE_STEP_BYTES === 0 && cache_size <= CACHE_BYTES_MAX;
  if (config.dax === false || (cache_size > 0 && isSize)) return;
  throw refusal(
    `Size of the virtio-fs cache (${cache_size}) is no multiple of 2 MiB up to 4 TiB`,
    `${at}.cache_size is ${cache_size}: give such a size, or set dax to false`,
  );
}

const refusal = (text: string, remedy: string): VmmError =>
  new VmmError(
    'invalid-config',
    'Failed to validate config',
    new Error(text, { cause: new Error(remedy) }),
  );

/** @throws VmmError 'invalid-config' or 'host' if there is no daemon for it. */
export function openFs(config: FsConfig, context: VhostUserContext): Promise<VhostUserDevice> {
  const { tag, num_queues, queue_size } = config;
  return VhostUserDevice.open(
    {
      ...placeOf(config, context.id),
      virtioId: 26,
      queueSizes: Array<number>(1 + num_queues).fill(queue_size),
      features: 0n,
      sharedMemoryBytes: cacheBytes(config) || undefined,
      config: new Writer(CONFIG_BYTES).put(0, Buffer.from(tag)).u32(NUM_REQUEST_QUEUES, num_queues)
        .bytes,
    },
    context,
  );
}
