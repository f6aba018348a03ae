/**
 * The schemas as what code needs at run time: plain data.
 *
 * This module makes it from the schemas; the build puts a generated one with the same exports in
 * its place (scripts/build/schema-tables.ts), so that the product loads no TypeBox.
 */
import type { Schema } from '../schema.ts';
import { RemoveDeviceConfig, ResizeDiskConfig } from './config/plugging.ts';
import { ResizeConfig, ResizeZoneConfig } from './config/resize.ts';
import { RestoreConfig } from './config/restore.ts';
import { VmCreateBody } from './config.ts';

/** TypeBox marks its objects with symbols, which plain data hasn't. */
const plain = (schema: object): Schema => JSON.parse(JSON.stringify(schema)) as Schema;

export const SCHEMAS = {
  vmCreate: plain(VmCreateBody),
  restore: plain(RestoreConfig),
  resize: plain(ResizeConfig),
  resizeZone: plain(ResizeZoneConfig),
  resizeDisk: plain(ResizeDiskConfig),
  removeDevice: plain(RemoveDeviceConfig),
};
