/** Changes of a config by one device, as vm.add-* and vm.remove-device make them. */
import type { Static } from '@sinclair/typebox';
import { VmmError } from '../../errors.ts';
import { object, size, text } from '../../schema.ts';
import type { VmConfig } from '../config.ts';
import { LIST_FIELDS, type ListField } from '../devices.ts';

export const RemoveDeviceConfig = object({ id: text() });
export type RemoveDeviceConfig = Static<typeof RemoveDeviceConfig>;

export const ResizeDiskConfig = object({ id: text(), desired_size: size() });
export type ResizeDiskConfig = Static<typeof ResizeDiskConfig>;

/** The config with one device more, the last of its list. */
export const withDevice = (config: VmConfig, field: ListField, device: object): VmConfig => ({
  ...config,
  [field]: [...(config[field] ?? []), device],
});

/** The config without the device of that id; undefined if there is none. A list stays, if empty. */
export function withoutDevice(config: VmConfig, id: string): VmConfig | undefined {
  const devices = (field: ListField): readonly { id?: string }[] => config[field] ?? [];
  const field = LIST_FIELDS.find((field) => devices(field).some((device) => device.id === id));
  return field && { ...config, [field]: devices(field).filter((device) => device.id !== id) };
}

const SECTOR_BYTES = 512;

/** @throws VmmError 'invalid-config' if no disk can have that size. */
export function checkDiskSize({ desired_size: bytes }: ResizeDiskConfig): void {
  if (bytes > 0 && bytes % SECTOR_BYTES === 0) return;
  const text =
    bytes === 0 ? 'Disk image size is 0' : `Disk image size is not a multiple of ${SECTOR_BYTES}`;
  const remedy = `desired_size is ${bytes}: give a multiple of ${SECTOR_BYTES} above 0`;
  throw new VmmError(
    'invalid-config',
    'Error from device manager',
    new Error('Disk resize error', { cause: new Error(text, { cause: new Error(remedy) }) }),
  );
}
