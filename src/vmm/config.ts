/**
 * The one configuration of a VM: the composition of its parts' schemas. Fields are named as today's
 * API names them and stand in the order in which it answers them.
 */
import { type Static, Type } from '@sinclair/typebox';
import { bool, list, object, option } from '../schema.ts';
import { CpusConfig } from './config/cpus.ts';
import { MemoryConfig } from './config/memory.ts';
import {
  LandlockConfig,
  NumaConfig,
  PayloadConfig,
  PciSegmentConfig,
  PlatformConfig,
  RateLimitGroupConfig,
  seedPayload,
} from './config/platform.ts';
import { DEVICES, type ListField } from './devices.ts';

const fields = {
  cpus: CpusConfig,
  memory: MemoryConfig,
  payload: option(PayloadConfig),
  rate_limit_groups: option(list(RateLimitGroupConfig)),
  disks: option(list(DEVICES.disks.schema)),
  net: option(list(DEVICES.net.schema)),
  rng: DEVICES.rng.schema,
  balloon: option(DEVICES.balloon.schema),
  generic_vhost_user: option(
    list(DEVICES.generic_vhost_user.schema, { wire: { aliases: ['generic-vhost-user'] } }),
  ),
  fs: option(list(DEVICES.fs.schema)),
  pmem: option(list(DEVICES.pmem.schema)),
  serial: DEVICES.serial.schema,
  console: DEVICES.console.schema,
  debug_console: DEVICES.debug_console.schema,
  devices: option(list(DEVICES.devices.schema)),
  user_devices: option(list(DEVICES.user_devices.schema)),
  vdpa: option(list(DEVICES.vdpa.schema)),
  vsock: option(list(DEVICES.vsock.schema, { wire: { single: true } })),
  pvpanic: DEVICES.pvpanic.schema,
  iommu: DEVICES.iommu.schema,
  numa: option(list(NumaConfig)),
  watchdog: DEVICES.watchdog.schema,
  rtc: option(DEVICES.rtc.schema),
  pci_segments: option(list(PciSegmentConfig)),
  platform: option(PlatformConfig),
  tpm: option(DEVICES.tpm.schema),
  landlock_enable: bool(false),
  landlock_rules: option(list(LandlockConfig)),
};

const VmConfig = Type.Object(fields);
export type VmConfig = Static<typeof VmConfig>;
export type { ListField };

/** What vm.create takes: either way of naming the payload. */
export const VmCreateBody = object({ ...fields, ...seedPayload });
