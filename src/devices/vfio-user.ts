/** PCI devices of other processes, by vfio-user. Nothing serves them yet. */
import type { Static } from '@sinclair/typebox';
import { object, pciFields, text } from '../schema.ts';

export const UserDeviceConfig = object({ ...pciFields, socket: text() });
export type UserDeviceConfig = Static<typeof UserDeviceConfig>;
