/**
 * The devices: what stands under which field of the config, and how its devices are called. The
 * only place that knows them all, and it knows nothing else of any of them.
 */
import { strict as assert } from 'node:assert';
import type { Static, TSchema } from '@sinclair/typebox';
import type { DeviceContext, PciFunction, PluggableBlocks } from '../devices/device.ts';
import { DebugConsoleConfig } from '../devices/legacy/debug-console.ts';
import { SerialConfig } from '../devices/legacy/serial.ts';
import { Pvpanic, PvpanicConfig } from '../devices/pvpanic.ts';
import { TpmConfig } from '../devices/tpm.ts';
import { VdpaConfig } from '../devices/vdpa.ts';
import { unservedVfio, VfioConfig } from '../devices/vfio/config.ts';
import { openHostDevice } from '../devices/vfio/host-device.ts';
import { checkUserDevice, openUserDevice, UserDeviceConfig } from '../devices/vfio-user/device.ts';
import { checkVhostUserBlock, openVhostUserBlock } from '../devices/vhost-user/block.ts';
import { checkFs, FsConfig, openFs } from '../devices/vhost-user/fs.ts';
import {
  checkGeneric,
  GenericVhostUserConfig,
  openGeneric,
} from '../devices/vhost-user/generic.ts';
import { checkVhostUserNet, openVhostUserNet } from '../devices/vhost-user/net.ts';
import { Balloon, BalloonConfig } from '../devices/virtio/balloon.ts';
import { Block, DiskConfig } from '../devices/virtio/block.ts';
import { Console, ConsoleConfig } from '../devices/virtio/console.ts';
import type { VirtioDevice } from '../devices/virtio/device.ts';
import { Iommu, IommuConfig } from '../devices/virtio/iommu.ts';
import type { IommuDomains } from '../devices/virtio/iommu-domains.ts';
import { Mem } from '../devices/virtio/mem.ts';
import { Net, NetConfig } from '../devices/virtio/net.ts';
import { Pmem, PmemConfig } from '../devices/virtio/pmem.ts';
import { Rng, RngConfig } from '../devices/virtio/rng.ts';
import { Rtc, RtcConfig } from '../devices/virtio/rtc.ts';
import { Vsock, VsockConfig } from '../devices/virtio/vsock.ts';
import { Watchdog, WatchdogConfig } from '../devices/virtio/watchdog.ts';
import { VmmError } from '../errors.ts';
import { native } from '../native.ts';
import { isBehindIommu } from './config/iommu.ts';
import { hasBlocks, MemoryConfig, type RamZone, ramZones } from './config/memory.ts';

/** What is in a slot, or what a virtio transport carries there. */
type Device = VirtioDevice | PciFunction;

type Named = { readonly id: string } | { readonly idPrefix: string };

/** What the VMM knows of the devices under one field of the config. */
interface Kind<S extends TSchema, D extends Device> {
  readonly schema: S;
  /** It takes no PCI slot. */
  readonly isOffBus?: true;
  /** It reaches nothing of guest RAM. */
  readonly hasNoDma?: true;
  /** Whether it works behind the virtio-iommu; it does not if absent. */
  worksBehindIommu?(config: Static<S>): boolean;
  /** Of its BAR; 64 if absent. */
  readonly barWidth?: 32;
  /** The devices of a field that is no list of them, each with how the config calls it. */
  parts?(config: Static<S>): { at: string; config: unknown }[];
  /** Whether such a config means that there is a device. It does if absent. */
  isPresent?(config: Static<S>): boolean;
  /**
   * What would keep it from being made, as far as that can be known at vm.create. `at` is how the
   * config calls it, such as `disks[0]`. @throws VmmError
   */
  check?(config: Static<S>, at: string): void;
  /**
   * Takes some seconds at most. @throws VmmError, or rejects with it, and then nothing of it is
   * left. Absent: nothing serves it yet.
   */
  create?(config: Static<S>, context: DeviceContext): D | Promise<D>;
  /** What it found out of what its config leaves open: fields to be written there. */
  found?(device: D): object;
  /** What of that the next boot must not find otherwise. */
  kept?(device: D): object;
  /** What of a config cannot be served yet, such as ` image_type Qcow2`; '' is all of it. */
  unserved?(config: Static<S>): string[];
  /** What to do where nothing serves it. */
  readonly instead?: string;
}

const kind = <S extends TSchema, D extends Device, const N extends Named>(
  it: Kind<S, D> & N,
): Kind<S, D> & N => it;

export const IOMMU_ID = '__iommu';

const growingZones = (memory: MemoryConfig): RamZone[] => ramZones(memory).filter(hasBlocks);

function domainsOf(iommu: DeviceContext['iommu']): IommuDomains {
  assert(iommu, 'there is nothing to be behind the IOMMU');
  return iommu;
}

function blocksOf({ id, blocks }: DeviceContext): PluggableBlocks {
  const found = blocks.get(id);
  assert(found, `zone ${id} has no blocks`);
  return found;
}

/**
 * In the order in which a boot gives out PCI slots and ids. A VM has any number of the devices with
 * an `idPrefix`, numbered by one counter, and at most one of those with an `id`.
 */
export const DEVICES = {
  console: kind({
    schema: ConsoleConfig,
    id: '__console',
    isPresent: ({ mode }) => mode !== 'Off',
    worksBehindIommu: () => true,
    create: (_, { console }) => new Console(console),
  }),
  disks: kind({
    schema: DiskConfig,
    idPrefix: '_disk',
    barWidth: 32,
    check: (config, at) =>
      config.vhost_user ? checkVhostUserBlock(config, at) : Block.check(config, at),
    create: (config, context): Promise<VirtioDevice> | VirtioDevice =>
      config.vhost_user ? openVhostUserBlock(config, context) : new Block(config, context),
    worksBehindIommu: ({ vhost_user }) => !vhost_user,
    found: (disk) => (disk instanceof Block ? { image_type: disk.imageType } : {}),
  }),
  net: kind({
    schema: NetConfig,
    idPrefix: '_net',
    check: (config, at) =>
      config.vhost_user ? checkVhostUserNet(config, at) : Net.check(config, at),
    create: (config, context): Promise<VirtioDevice> | VirtioDevice =>
      config.vhost_user ? openVhostUserNet(config, context) : new Net(config, context),
    worksBehindIommu: ({ vhost_user }) => !vhost_user,
    found: (card) => (card instanceof Net ? { host_mac: card.hostMac } : {}),
    kept: (card) => (card instanceof Net ? card.kept : {}),
  }),
  rng: kind({
    schema: RngConfig,
    id: '__rng',
    worksBehindIommu: () => true,
    check: (config) => Rng.check(config),
    create: (config, context) => new Rng(config, context),
  }),
  generic_vhost_user: kind({
    schema: GenericVhostUserConfig,
    idPrefix: '_generic_vhost_user',
    check: checkGeneric,
    create: openGeneric,
  }),
  fs: kind({ schema: FsConfig, idPrefix: '_fs', check: checkFs, create: openFs }),
  pmem: kind({
    schema: PmemConfig,
    idPrefix: '_pmem',
    worksBehindIommu: () => true,
    check: (config, at) => Pmem.check(config, at),
    create: (config, context) => new Pmem(config, context),
  }),
  vsock: kind({
    schema: VsockConfig,
    idPrefix: '_vsock',
    worksBehindIommu: () => true,
    check: (config) => Vsock.check(config),
    create: (config, context) => new Vsock(config, context),
  }),
  memory: kind({
    schema: MemoryConfig,
    id: '', // each has that of its zone
    parts: (memory) => growingZones(memory).map((zone) => ({ at: zone.at, config: zone })),
    create: (_, context) => new Mem(blocksOf(context), context),
  }),
  balloon: kind({
    schema: BalloonConfig,
    id: '__balloon',
    create: (config, context) => new Balloon(config, context),
  }),
  watchdog: kind({
    schema: WatchdogConfig,
    id: '__watchdog',
    create: (_, context) => new Watchdog(context),
  }),
  vdpa: kind({
    schema: VdpaConfig,
    idPrefix: '_vdpa',
    unserved: ({ path }) => [` path ${path}`],
    instead: 'have its device served by vhost-user, or give it to the guest by VFIO',
  }),
  rtc: kind({
    schema: RtcConfig,
    id: '__rtc',
    worksBehindIommu: () => true,
    create: () => new Rtc(() => native.wallClockNs()),
  }),
  devices: kind({
    schema: VfioConfig,
    idPrefix: '_vfio',
    create: openHostDevice,
    worksBehindIommu: () => true,
    unserved: unservedVfio,
  }),
  user_devices: kind({
    schema: UserDeviceConfig,
    idPrefix: '_vfio_user',
    check: checkUserDevice,
    create: openUserDevice,
  }),
  iommu: kind({
    schema: IommuConfig,
    id: IOMMU_ID,
    hasNoDma: true, // of what it would translate
    create: (_, { iommu }) => new Iommu(domainsOf(iommu)),
  }),
  pvpanic: kind({
    schema: PvpanicConfig,
    id: '__pvpanic',
    hasNoDma: true,
    create: (_, context) => new Pvpanic(context),
  }),
  tpm: kind({ schema: TpmConfig, id: '__tpm', isOffBus: true }),
  serial: kind({ schema: SerialConfig, id: '__serial', isOffBus: true, unserved: () => [] }),
  debug_console: kind({
    schema: DebugConsoleConfig,
    id: '__debug_console',
    isOffBus: true,
    unserved: () => [],
  }),
} as const;

type DeviceField = keyof typeof DEVICES;
/** Those that a VM has any number of. */
export type ListField = {
  [F in DeviceField]: (typeof DEVICES)[F] extends { idPrefix: string } ? F : never;
}[DeviceField];
export const LIST_FIELDS = (Object.keys(DEVICES) as DeviceField[]).filter(
  (field): field is ListField => 'idPrefix' in DEVICES[field],
);

type DeviceConfigs = { readonly [F in DeviceField]?: unknown };
type Identified = { readonly id?: string };

/** Any kind: the config that it is given is its own. */
type AnyKind = Kind<TSchema, Device> & Named;
export type Kinds = Readonly<Record<string, AnyKind>>;
const KINDS = DEVICES as unknown as Kinds;

/** A device that a config asks for. */
export interface WantedDevice {
  kind: AnyKind;
  /** How the config calls it: `disks[0]`, or `rng`. */
  at: string;
  /** The device's own part of the config. */
  config: unknown;
}

/** All that the config asks for, in the order of their kinds. */
function wantedDevices(config: object, kinds: Kinds): WantedDevice[] {
  return Object.entries(kinds).flatMap(([field, kind]) => {
    const value = (config as Readonly<Record<string, unknown>>)[field];
    if (value === undefined || value === false) return [];
    const wanted = partsOf(kind, field, value).map((part) => ({ kind, ...part }));
    return wanted.filter(({ config }) => kind.isPresent?.(config) ?? true);
  });
}

function partsOf(kind: AnyKind, field: string, value: unknown): { at: string; config: unknown }[] {
  if (kind.parts) return kind.parts(value);
  if (!Array.isArray(value)) return [{ at: field, config: value }];
  return value.map((config: unknown, i) => ({ at: `${field}[${i}]`, config }));
}

/** The last one under a field. */
export function lastDevice(config: DeviceConfigs, field: ListField): WantedDevice {
  const devices = (config[field] ?? []) as readonly unknown[];
  const last = devices.length - 1;
  return { kind: KINDS[field] as AnyKind, at: `${field}[${last}]`, config: devices[last] };
}

/** Those of them that take a PCI slot. */
export const pciDevices = (config: object, kinds = KINDS): WantedDevice[] =>
  wantedDevices(config, kinds).filter(({ kind }) => !kind.isOffBus);

/**
 * Looks for what would keep the devices from being made, as far as that can be known at vm.create.
 * @throws VmmError
 */
export function checkDevices(config: DeviceConfigs): void {
  for (const { kind, at, config: own } of wantedDevices(config, KINDS)) kind.check?.(own, at);
}

/**
 * What the config asks for and nothing serves yet, each as `disks[0]` or `serial Pty`: a boot
 * refuses these by name, for a guest must not find less than its config says.
 */
export function unsupportedDevices(config: DeviceConfigs): { names: string[]; remedies: string[] } {
  const refused = wantedDevices(config, KINDS).filter((one) => unservedParts(one).length > 0);
  return { names: refused.flatMap(unservedParts), remedies: refused.flatMap(remedyOf) };
}

const remedyOf = ({ kind, at }: WantedDevice): string[] =>
  kind.instead === undefined ? [] : [`in place of ${at}, ${kind.instead}`];

function unservedParts({ kind, at, config }: WantedDevice): string[] {
  const unserved = kind.unserved?.(config) ?? (kind.create ? [] : ['']);
  const isMisplaced = !kind.isOffBus && isBehindIommu(config) && !kind.worksBehindIommu?.(config);
  const all = new Set([...unserved, ...(isMisplaced ? [' iommu'] : [])]);
  return [...all].map((what) => `${at}${what}`);
}

/**
 * Whether a device can be made for a VM that runs, as far as that can be known before.
 * @throws VmmError
 */
export function checkPluggable(wanted: WantedDevice): void {
  const unserved = unservedParts(wanted);
  if (unserved.length > 0) throw notSupported(unserved, ['Leave it out', ...remedyOf(wanted)]);
  wanted.kind.check?.(wanted.config, wanted.at);
}

export const notSupported = (names: readonly string[], remedies: readonly string[]): VmmError =>
  new VmmError(
    'invalid-config',
    `Not supported yet: ${names.join(', ')}`,
    new Error(remedies.join('; ')),
  );

export const findBalloon = (devices: Iterable<VirtioDevice>): Balloon | undefined =>
  [...devices].find((device) => device instanceof Balloon);

/** By the zone that grows. */
export const findMems = (devices: Iterable<VirtioDevice>): ReadonlyMap<string, Mem> =>
  new Map([...devices].flatMap((device) => (device instanceof Mem ? [[device.id, device]] : [])));

/** The id of a device in a config whose devices have all got theirs. */
export const deviceId = ({ kind, config }: WantedDevice): string =>
  (config as Identified).id ?? ('id' in kind ? kind.id : '');

/** The config with what its devices found out: fields by device id. It is left as it was. */
export function withFound<T extends DeviceConfigs>(
  config: T,
  found: ReadonlyMap<string, object>,
): T {
  const fields = Object.keys(DEVICES).flatMap((field) => {
    const devices = config[field as DeviceField];
    if (!Array.isArray(devices)) return [];
    return [[field, devices.map((one: Identified) => ({ ...one, ...found.get(one.id ?? '') }))]];
  });
  return { ...config, ...Object.fromEntries(fields) };
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

/** The config with the IOMMU that something in it is to be behind. It is left as it was. */
export function withIommu<T extends DeviceConfigs>(config: T, segments: readonly number[]): T {
  const isWanted =
    segments.length > 0 || pciDevices(config).some(({ config: own }) => isBehindIommu(own));
  return isWanted ? { ...config, iommu: true } : config;
}

/** Every id that the config names, in the order of the devices. */
export const deviceIds = (config: DeviceConfigs): string[] =>
  (Object.keys(DEVICES) as DeviceField[])
    .flatMap((field) => (field === 'memory' ? zonesOf(config) : (config[field] ?? [])))
    .flatMap((device) => (device as Identified).id ?? []);

const zonesOf = ({ memory }: DeviceConfigs): RamZone[] =>
  memory === undefined ? [] : growingZones(memory as MemoryConfig);
