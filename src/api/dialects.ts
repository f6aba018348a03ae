/**
 * The edge where requests in either dialect of the config become the one VmConfig, and where it is
 * answered in the dialect of the request. Nothing behind it knows of dialects.
 *
 * `seed` is that of March 2020, with `kernel` and `cmdline` beside the devices; `today` has
 * `payload`. The command line speaks today's, and can name open files too.
 */
import { VmmError } from '../errors.ts';
import type { Schema } from '../schema.ts';
import { isObject, refusal } from '../schema-check.ts';
import type { RestoreConfig } from '../vmm/config/restore.ts';
import { withSharedRam } from '../vmm/config/shared-ram.ts';
import type { ListField, VmConfig } from '../vmm/config.ts';
import { SCHEMAS } from '../vmm/schema-tables.ts';

export type Dialect = 'seed' | 'today';
type Source = Dialect | 'cli';

/**
 * Reads the body of vm.create: names the fields as we do, fills in defaults, draws what is random.
 * Unknown fields are left out, wherever they stand.
 *
 * @throws VmmError 'invalid-config', its cause naming the field, the value and what it takes.
 */
export function normalise(body: unknown): { config: VmConfig; dialect: Dialect } {
  const dialect = dialectOf(body);
  return { config: complete(body, dialect), dialect };
}

/** The same for what the command line gathered. */
export const normaliseCli = (body: unknown): VmConfig => complete(body, 'cli');

/** Likewise for what the command line says of a restore. */
export function normaliseRestore(body: unknown): RestoreConfig {
  const restore = fill(SCHEMAS.restore, body, 'cli') as RestoreConfig;
  for (const net of restore.net_fds ?? []) net.num_fds = net.fds?.length ?? 0;
  return restore;
}

/**
 * What reads the other bodies, the same in all dialects.
 * @throws VmmError as `normalise`.
 */
export const reader =
  <Body>(name: keyof typeof SCHEMAS) =>
  (body: unknown): Body =>
    checked(SCHEMAS[name], fill(SCHEMAS[name], body, 'today')) as Body;

/**
 * What reads the body of vm.add-*, a device that is to stand under `field` of the config. Which
 * dialect that is in, the VM knows: the result reads it so, and what is wrong in today's is found now.
 * @throws VmmError as `normalise`.
 */
export const deviceReader = (field: ListField) => {
  const schema = SCHEMAS.vmCreate.properties?.[field]?.items ?? SCHEMAS.vmCreate;
  return (body: unknown) => {
    const read = (dialect: Dialect) => {
      const device = checked(schema, fill(schema, body, dialect)) as object;
      return dialect === 'seed' ? servedByUs(device) : device;
    };
    read('today');
    return read;
  };
};

function checked(schema: Schema, value: unknown): unknown {
  const refused = refusal(schema, value, '');
  if (refused === undefined) return value;
  throw new VmmError('invalid-config', 'Failed to deserialize JSON', new Error(refused));
}

function dialectOf(body: unknown): Dialect {
  if (!isObject(body) || Object.hasOwn(body, 'payload')) return 'today';
  return Object.hasOwn(body, 'kernel') || Object.hasOwn(body, 'cmdline') ? 'seed' : 'today';
}

interface SeedPayload {
  kernel?: { path: string };
  cmdline: { args: string };
  initramfs?: { path: string };
}

function complete(body: unknown, source: Source): VmConfig {
  const filled = checked(SCHEMAS.vmCreate, fill(SCHEMAS.vmCreate, body, source));
  if (source !== 'seed') return withSharedRam(filled as VmConfig);
  const { kernel, cmdline, initramfs, ...config } = filled as VmConfig & SeedPayload;
  const payload = {
    ...(kernel && { kernel: kernel.path }),
    cmdline: cmdline.args,
    ...(initramfs && { initramfs: initramfs.path }),
  };
  const { disks, net } = config;
  return withSharedRam({
    ...{ ...config, payload },
    ...(disks && { disks: disks.map(servedByUs) }),
    ...(net && { net: net.map(servedByUs) }),
  });
}

/**
 * In 2020 the VMM started a backend for a disk or a card with `vhost_user` and no socket. Here
 * nothing is to be gained by another process: the device is served by this one.
 */
const servedByUs = <Device extends { vhost_user?: boolean; vhost_socket?: string }>(
  device: Device,
): Device =>
  device.vhost_user && device.vhost_socket === undefined
    ? { ...device, vhost_user: false }
    : device;

/** The value with the schema's fields alone, in its order, and defaults where they are absent. */
function fill(schema: Schema, value: unknown, source: Source): unknown {
  const { items, properties, wire } = schema;
  if (wire?.spellings) return wire.spellings[JSON.stringify(value)] ?? value;
  if (wire?.lowerCase && typeof value === 'string') return value.toLowerCase();
  if (items && Array.isArray(value)) return value.map((element) => fill(items, element, source));
  return properties && isObject(value) ? fillObject(schema, value, source) : value;
}

function fillObject(
  { properties = {}, required = [], additionalProperties }: Schema,
  value: Readonly<Record<string, unknown>>,
  source: Source,
): object {
  const filled: Record<string, unknown> = {};
  for (const [name, field] of Object.entries(properties)) {
    const given = givenValue(value, name, field, source);
    // Null stands for "absent" wherever a field may be absent; elsewhere the check refuses it.
    const otherwise = defaultValue(field, source);
    const mayBeAbsent = otherwise !== undefined || !required.includes(name);
    const absent = given === undefined || (given === null && mayBeAbsent);
    const found = absent ? otherwise : given;
    if (found !== undefined) filled[name] = fill(field, found, source);
  }
  // A closed object keeps what it doesn't know, for the check to refuse.
  return additionalProperties === false ? { ...value, ...filled } : filled;
}

/** Whether fields of the other dialect, or numbers of open files, may stand here at all. */
const isKnown = ({ wire }: Schema, source: Source): boolean =>
  (!wire?.seed || source !== 'today') && (!wire?.fd || source === 'cli');

function givenValue(
  object: Readonly<Record<string, unknown>>,
  name: string,
  field: Schema,
  source: Source,
): unknown {
  if (!isKnown(field, source)) return undefined;
  const key = [name, ...(field.wire?.aliases ?? [])].find((key) => Object.hasOwn(object, key));
  const value = key === undefined ? undefined : object[key];
  if (!field.wire?.single || value === undefined || value === null) return value;
  // A list in 2020; its first heirs sent one object, as today.
  return source === 'seed' && Array.isArray(value) ? value : [value];
}

function defaultValue(field: Schema, source: Source): unknown {
  if (!isKnown(field, source) || (field.wire?.seed && source !== 'seed')) return undefined;
  if (field.wire?.drawn) return randomMac();
  return (source === 'seed' ? field.wire?.seedDefault : undefined) ?? field.default;
}

/**
 * The first byte says "locally administered", the rest is chance. Nothing hangs on it being hard to
 * guess, and node:crypto would take milliseconds to load.
 */
function randomMac(): string {
  const bytes = Array.from({ length: 5 }, () => Math.floor(Math.random() * 256));
  return ['2e', ...bytes.map((byte) => byte.toString(16).padStart(2, '0'))].join(':');
}

/** What vm.info tells of a VM, whatever the dialect. */
export interface VmInfo {
  config: VmConfig;
  state: string;
  /** RAM that the guest has now, in bytes. */
  memoryActualSize: number;
  deviceTree?: unknown;
}

/** The JSON value of vm.info. */
export function render(info: VmInfo, dialect: Dialect): object {
  const { config, state, memoryActualSize, deviceTree } = info;
  if (dialect === 'seed') return { config: renderSeed(config), state };
  return {
    config: renderToday(SCHEMAS.vmCreate, config),
    state,
    memory_actual_size: memoryActualSize,
    ...(deviceTree !== undefined && { device_tree: deviceTree }),
  };
}

/** In the schema's order, leaving out what is absent. */
function renderToday(schema: Schema, value: unknown): unknown {
  const { items, properties, wire } = schema;
  if (items && wire?.single) return renderToday(items, (value as unknown[])[0]);
  if (items) return (value as unknown[]).map((element) => renderToday(items, element));
  if (!properties || value === undefined) return value;
  const object = value as Readonly<Record<string, unknown>>;
  const rendered: Record<string, unknown> = {};
  for (const [name, field] of Object.entries(properties)) {
    const found = object[name];
    if (field.wire?.seed || (field.wire?.omitFalse && found === false)) continue;
    if (found !== undefined) rendered[name] = renderToday(field, found);
    else if (wire?.nulls) rendered[name] = null;
  }
  return rendered;
}

/** The fields of 2020, in the order of then. */
const SEED_FIELDS: Readonly<Record<string, string>> = {
  cpus: 'boot_vcpus max_vcpus',
  memory: 'size file mergeable hotplug_size',
  kernel: 'path',
  cmdline: 'args',
  disks: 'path readonly direct iommu num_queues queue_size vhost_user vhost_socket wce poll_queue',
  net: 'tap ip mask mac iommu num_queues queue_size vhost_user vhost_socket',
  rng: 'src iommu',
  fs: 'tag sock num_queues queue_size dax cache_size',
  pmem: 'file size iommu mergeable discard_writes',
  serial: 'file mode iommu',
  console: 'file mode iommu',
  devices: 'path iommu id',
  vsock: 'cid sock iommu',
  iommu: '',
};

/** Every field stands there, as null if it is absent. */
function renderSeed({ payload, ...config }: VmConfig): object {
  const kernel = payload?.kernel;
  const parts: Readonly<Record<string, unknown>> = {
    ...config,
    kernel: kernel === undefined ? null : { path: kernel },
    cmdline: { args: payload?.cmdline ?? '' },
  };
  const pick = (part: unknown, names: string): unknown => {
    if (Array.isArray(part)) return part.map((element) => pick(element, names));
    if (!isObject(part)) return part ?? null;
    // In 2020 the paths of sockets stood under `sock`.
    const value = (name: string) => part[name === 'sock' ? 'socket' : name] ?? null;
    return Object.fromEntries(names.split(' ').map((name) => [name, value(name)]));
  };
  return Object.fromEntries(
    Object.entries(SEED_FIELDS).map(([field, names]) => [field, pick(parts[field], names)]),
  );
}
