/** What sysfs says of a PCI device that is to be handed to a guest. */
import { readdirSync, readFileSync, readlinkSync, realpathSync } from 'node:fs';
import { basename, join } from 'node:path';
import { VmmError } from '../../errors.ts';

/** A device that can be opened. */
export interface HostDevice {
  /** As in `0000:00:04.0`. */
  name: string;
  /** The file of its group. */
  group: string;
}

const NAME = /^[0-9a-f]{4,}:[0-9a-f]{2}:[0-9a-f]{2}\.[0-7]$/;
/** Upper half of the class of a bridge between PCI buses. */
const BRIDGE = '0x0604';
/** Drivers of the host that leave the other devices of a group alone. */
const HARMLESS = /vfio|^pci-stub$|^pcieport$/;

/** In the words that clients know. */
export const refusedDevice = (text: string, remedy: string, cause?: unknown): VmmError =>
  new VmmError(
    'invalid-config',
    'Error from device manager',
    new Error('Cannot create a VFIO device', {
      cause: new Error(text, { cause: new Error(remedy, { cause }) }),
    }),
  );

/**
 * Finds out whether the device is there and is to be had, for the one with `id` in the config.
 * @throws VmmError 'invalid-config'
 */
export function findHostDevice(path: string, id: string): HostDevice {
  const said = `The path of device ${id} is ${path}`;
  const directory = resolved(path);
  const name = directory === undefined ? '' : basename(directory);
  if (directory === undefined || !NAME.test(name) || !field(directory, 'class'))
    throw refusedDevice(
      'invalid file path',
      `${said}: name a PCI device as in /sys/bus/pci/devices/0000:01:00.0`,
    );
  if (field(directory, 'class').startsWith(BRIDGE))
    throw refusedDevice('The device is a PCI bridge', `${said}: name a device behind it`);
  const driver = linked(directory, 'driver');
  if (!driver?.includes('vfio'))
    throw refusedDevice(
      `The device is not bound to vfio-pci, but to ${driver ?? 'no driver'}`,
      `${said}: write vfio-pci to its driver_override, unbind it, and write ${name} to ` +
        '/sys/bus/pci/drivers_probe',
    );
  const group = linked(directory, 'iommu_group');
  if (group === undefined)
    throw refusedDevice(
      'The device has no IOMMU group',
      `${said}: turn the IOMMU on in the firmware and by intel_iommu=on or amd_iommu=on`,
    );
  const other = devicesOf(directory).find((one) => one !== name && isInUse(directory, one));
  if (other !== undefined)
    throw refusedDevice(
      `The device shares its IOMMU group ${group} with ${other}, which the host uses`,
      `${said}: unbind ${other} from its driver, or bind it to vfio-pci, too`,
    );
  return { name, group: `/dev/vfio/${group}` };
}

function resolved(path: string): string | undefined {
  try {
    return realpathSync(path);
  } catch {
    return undefined;
  }
}

/** '' if there is none. */
function field(directory: string, name: string): string {
  try {
    return readFileSync(join(directory, name), 'utf8').trim();
  } catch {
    return '';
  }
}

function linked(directory: string, name: string): string | undefined {
  try {
    return basename(readlinkSync(join(directory, name)));
  } catch {
    return undefined;
  }
}

const GROUP_DEVICES = 'iommu_group/devices';

function devicesOf(directory: string): string[] {
  try {
    return readdirSync(join(directory, GROUP_DEVICES));
  } catch {
    return [];
  }
}

function isInUse(directory: string, other: string): boolean {
  const driver = linked(join(directory, GROUP_DEVICES, other), 'driver');
  return driver !== undefined && !HARMLESS.test(driver);
}
