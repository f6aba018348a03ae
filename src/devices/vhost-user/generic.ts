/**
 * Any virtio device whose backend speaks vhost-user and needs nothing of the VMM but its queues.
 *
 * Data plane: that backend, which shares the guest's RAM.
 */
import type { Static } from '@sinclair/typebox';
import { VmmError } from '../../errors.ts';
import { list, object, pciFields, text, uint } from '../../schema.ts';
import { checkPlace } from './backend.ts';
import { type VhostUserContext, VhostUserDevice } from './device.ts';

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

/** The most that the protocol has; Linux reads no more of any device. */
const CONFIG_BYTES = 256;

/** Of these the configuration space is smaller, and some backends give all of it or nothing. */
const CONFIG_BYTES_BY_TYPE: Readonly<Record<number, number>> = { 2: 60, 26: 40 };

/** PCI has room for so many types, VIRTIO 1.2 §4.1.2. */
const DEVICE_TYPE_MAX = 63;

const QUEUES_MAX = 256;
const QUEUE_SIZE_MAX = 32_768;

const placeOf = ({ socket }: GenericVhostUserConfig, at: string) => ({
  socket,
  field: `${at}.socket`,
  kind: 'generic vhost-user',
});

/** @throws VmmError 'invalid-config' if there can be no such device. */
export function checkGeneric(config: GenericVhostUserConfig, at: string): void {
  checkPlace(placeOf(config, at));
  const { queue_sizes, device_type } = config;
  if (device_type < 1 || device_type > DEVICE_TYPE_MAX)
    throw refusal(
      `No virtio device is of type ${device_type}`,
      `${at}.device_type is ${device_type}: give 1 to ${DEVICE_TYPE_MAX}`,
    );
  const count = queue_sizes.length;
  if (count < 1 || count > QUEUES_MAX)
    throw refusal(
      `Queue count (${count}) is not within 1 to ${QUEUES_MAX}`,
      `${at}.queue_sizes names ${count} queues: give 1 to ${QUEUES_MAX}`,
    );
  const odd = queue_sizes.findIndex((size) => !isQueueSize(size));
  if (odd !== -1)
    throw refusal(
      `Queue size must be a power of 2 no greater than ${QUEUE_SIZE_MAX}: ${queue_sizes[odd]}`,
      `${at}.queue_sizes[${odd}] is ${queue_sizes[odd]}: give a power of two`,
    );
}

/** @throws VmmError 'invalid-config' or 'host' if there is no backend for it. */
export function openGeneric(
  config: GenericVhostUserConfig,
  context: VhostUserContext,
): Promise<VhostUserDevice> {
  const { device_type, queue_sizes } = config;
  return VhostUserDevice.open(
    {
      ...placeOf(config, context.id),
      virtioId: device_type,
      queueSizes: queue_sizes,
      features: ~0n,
      config: CONFIG_BYTES_BY_TYPE[device_type] ?? CONFIG_BYTES,
      isConfigOptional: true,
      isWritable: () => true,
    },
    context,
  );
}

const isQueueSize = (size: number): boolean =>
  size > 0 && size <= QUEUE_SIZE_MAX && Number.isInteger(Math.log2(size));

const refusal = (text: string, remedy: string): VmmError =>
  new VmmError(
    'invalid-config',
    'Failed to validate config',
    new Error(text, { cause: new Error(remedy) }),
  );
