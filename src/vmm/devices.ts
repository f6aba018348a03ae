/**
 * The devices: what stands under which field of the config, and how its devices are called. The
 * only place that knows them all, and it knows nothing else of any of them.
 */
import { DebugConsoleConfig } from '../devices/legacy/debug-console.ts';
import { SerialConfig } from '../devices/legacy/serial.ts';
import { PvpanicConfig } from '../devices/pvpanic.ts';
import { TpmConfig } from '../devices/tpm.ts';
import { VdpaConfig } from '../devices/vdpa.ts';
import { UserDeviceConfig, VfioConfig } from '../devices/vfio.ts';
import { FsConfig } from '../devices/vhost-user/fs.ts';
import { GenericVhostUserConfig } from '../devices/vhost-user/generic.ts';
import { BalloonConfig } from '../devices/virtio/balloon.ts';
import { DiskConfig } from '../devices/virtio/block.ts';
import { ConsoleConfig } from '../devices/virtio/console.ts';
import { NetConfig } from '../devices/virtio/net.ts';
import { PmemConfig } from '../devices/virtio/pmem.ts';
import { RNG_DEFAULT_SRC, RngConfig } from '../devices/virtio/rng.ts';
import { RtcConfig } from '../devices/virtio/rtc.ts';
import { VsockConfig } from '../devices/virtio/vsock.ts';
import { WatchdogConfig } from '../devices/virtio/watchdog.ts';

/**
 * In the order in which a boot gives out PCI slots and ids. A VM has any number of the devices with
 * an `idPrefix`, numbered by one counter, and at most one of those with an `id`.
 */
export const DEVICES = {
  console: { schema: ConsoleConfig, id: '__console' },
  disks: { schema: DiskConfig, idPrefix: '_disk' },
  net: { schema: NetConfig, idPrefix: '_net' },
  rng: { schema: RngConfig, id: '__rng' },
  generic_vhost_user: { schema: GenericVhostUserConfig, idPrefix: '_generic_vhost_user' },
  fs: { schema: FsConfig, idPrefix: '_fs' },
  pmem: { schema: PmemConfig, idPrefix: '_pmem' },
  vsock: { schema: VsockConfig, idPrefix: '_vsock' },
  balloon: { schema: BalloonConfig, id: '__balloon' },
  watchdog: { schema: WatchdogConfig, id: '__watchdog' },
  vdpa: { schema: VdpaConfig, idPrefix: '_vdpa' },
  rtc: { schema: RtcConfig, id: '__rtc' },
  devices: { schema: VfioConfig, idPrefix: '_vfio' },
  user_devices: { schema: UserDeviceConfig, idPrefix: '_vfio_user' },
  pvpanic: { schema: PvpanicConfig, id: '__pvpanic' },
  tpm: { schema: TpmConfig, id: '__tpm' },
  serial: { schema: SerialConfig, id: '__serial' },
  debug_console: { schema: DebugConsoleConfig, id: '__debug_console' },
} as const;

type DeviceField = keyof typeof DEVICES;
type DeviceConfigs = { readonly [F in DeviceField]?: unknown };
type Identified = { readonly id?: string };

/** What of a device that is built, or that a config has unasked, cannot be served yet. */
const UNSERVED: { readonly [F in DeviceField]?: (config: never) => string[] } = {
  serial: () => [],
  console: ({ mode }: ConsoleConfig) => otherThan(mode, ['Off', 'Null', 'Tty']),
  rng: ({ src }: RngConfig) => otherThan(src, [RNG_DEFAULT_SRC]),
  debug_console: ({ mode }: DebugConsoleConfig) => otherThan(mode, ['Off']),
};

const otherThan = (value: string, served: readonly string[]): string[] =>
  served.includes(value) ? [] : [` ${value}`];

/**
 * What the config asks for and nothing serves yet, each as `disks[0]` or `serial Pty`: a boot
 * refuses these by name, for a guest must not find less than its config says.
 */
export function unsupportedDevices(config: DeviceConfigs): string[] {
  return (Object.keys(DEVICES) as DeviceField[]).flatMap((field) => {
    const value = config[field];
    if (value === undefined || value === false) return [];
    if (Array.isArray(value)) return value.map((_, i) => `${field}[${i}]`);
    const unserved = UNSERVED[field] ?? (() => ['']);
    return unserved(value as never).map((what) => `${field}${what}`);
  });
}

/**
 * Gives an id to every device that has none, from the one counter that all kinds share: `_disk0`,
 * then `_net1`. Numbers whose id the user took are passed over. The config is left as it was.
 */
export function assignIds<T extends DeviceConfigs>(
  config: T,
  counter: number,
): { config: T; counter: number } {
  const taken = new Set(deviceIds(config));
  let next = counter;
  const withId = (prefix: string, device: Identified): Identified => {
    if (device.id !== undefined) return device;
    while (taken.has(`${prefix}${next}`)) next++;
    return { ...device, id: `${prefix}${next++}` };
  };
  const named = Object.entries(DEVICES).flatMap(([field, kind]) => {
    const devices = config[field as DeviceField];
    if (!('idPrefix' in kind) || !Array.isArray(devices)) return [];
    return [[field, devices.map((device: Identified) => withId(kind.idPrefix, device))]];
  });
  return { config: { ...config, ...Object.fromEntries(named) }, counter: next };
}

/** Every id that the config names, in the order of the devices. */
export function deviceIds(config: DeviceConfigs): string[] {
  return (Object.keys(DEVICES) as DeviceField[])
    .flatMap((field) => config[field] ?? [])
    .flatMap((device) => (device as Identified).id ?? []);
}
