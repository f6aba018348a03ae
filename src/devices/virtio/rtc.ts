/**
 * virtio-rtc, device type 17: the host's wall clock for the guest.
 *
 * Data plane: this file. A guest asks once in a while.
 */
import type { Static } from '@sinclair/typebox';
import { iommuFields, object } from '../../schema.ts';

export const RtcConfig = object({ ...iommuFields });
export type RtcConfig = Static<typeof RtcConfig>;
