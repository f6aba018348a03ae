/**
 * virtio-rng: entropy for the guest from a host file. VIRTIO 1.2 §5.4.
 *
 * Data plane: this file. A guest asks for a few hundred bytes now and then.
 */
import type { Static } from '@sinclair/typebox';
import { iommuFields, object, text } from '../../schema.ts';

/** Also what the guest gets where nothing is said: it always has this device. */
export const RNG_DEFAULT_SRC = '/dev/urandom';

export const RngConfig = object(
  { ...iommuFields, src: text({ cli: { default: RNG_DEFAULT_SRC } }) },
  { default: { src: RNG_DEFAULT_SRC } },
);
export type RngConfig = Static<typeof RngConfig>;
