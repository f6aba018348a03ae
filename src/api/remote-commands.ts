/**
 * The subcommands of ch-remote: what each takes, and the request that it makes of it. Options are
 * those of the command line, read by the same schemas.
 */
import { readFileSync } from 'node:fs';
import { osError } from '../errors.ts';
import type { Schema } from '../schema.ts';
import { SCHEMAS } from '../vmm/schema-tables.ts';
import { sizeOf } from './option-string.ts';
import { failure, readOptions } from './read-options.ts';

export interface RemoteRequest {
  method: 'GET' | 'PUT';
  /** Behind `/api/v1/`. */
  endpoint: string;
  body?: string;
  /** Open files that go along. */
  fds: readonly number[];
}

/** A word that follows the subcommand. */
interface Argument {
  name: string;
  help: string;
  /** What stands for it where it is not given; without, it has to be. */
  fallback?: string;
  /** The keys that it takes. */
  schema?: Schema;
}

/** `--name VALUE`. */
interface Option {
  name: string;
  help: string;
  isRequired?: true;
}

export interface RemoteCommand {
  name: string;
  help: string;
  argument?: Argument;
  options: readonly Option[];
  /** @throws VmmError, its chain as it is to be printed. */
  request(given: Given): RemoteRequest;
}

/** The argument, and options by name. */
export interface Given {
  argument: string;
  options: ReadonlyMap<string, string>;
}

const get = (name: string, help: string, endpoint: string): RemoteCommand => ({
  ...{ name, help, options: [] },
  request: () => ({ method: 'GET', endpoint, fds: [] }),
});

const put = (name: string, help: string, endpoint = `vm.${name}`): RemoteCommand => ({
  ...{ name, help, options: [] },
  request: () => ({ method: 'PUT', endpoint, fds: [] }),
});

const putJson = (endpoint: string, body: object, fds: readonly number[] = []): RemoteRequest => ({
  ...{ method: 'PUT', endpoint, fds },
  body: JSON.stringify(body),
});

const itemsOf = (field: string): Schema => {
  const { items, ...schema }: Schema = SCHEMAS.vmCreate.properties?.[field] ?? { type: 'object' };
  return items ?? schema;
};

/** @param failed as the original calls what cannot be read. */
function add(what: string, field: string, failed: string, help: string): RemoteCommand {
  const schema = itemsOf(field);
  return {
    name: `add-${what}`,
    help,
    argument: { name: `${what.replaceAll('-', '_')}_config`, help: 'The device', schema },
    options: [],
    request: ({ argument }) => {
      const config = read(`--${what}`, schema, argument, `Error parsing ${failed} syntax`);
      const fds = takeFds(config, schema);
      return putJson(`vm.add-${what}`, config, fds);
    },
  };
}

function read(what: string, schema: Schema, text: string, failed: string): Record<string, unknown> {
  try {
    return readOptions(what, schema, text);
  } catch (error) {
    throw failure(error, failed);
  }
}

/** JSON cannot carry open files: their numbers are taken out, to be sent beside it. */
function takeFds(config: Record<string, unknown>, { properties = {} }: Schema): number[] {
  return Object.entries(properties).flatMap(([name, { wire }]) => {
    const value = config[name];
    if (!wire?.fd || value === undefined) return [];
    delete config[name];
    return value as number | number[];
  });
}

function restore({ argument }: Given): RemoteRequest {
  const schema = SCHEMAS.restore;
  const config = read('--restore', schema, argument, 'Error parsing restore syntax');
  const nets = (config['net_fds'] ?? []) as { id: string; fds?: number[] }[];
  const netFds = nets.map(({ id, fds = [] }) => ({ id, num_fds: fds.length }));
  const body = { ...config, ...(nets.length > 0 && { net_fds: netFds }) };
  return putJson(
    'vm.restore',
    body,
    nets.flatMap(({ fds = [] }) => fds),
  );
}

function create({ argument }: Given): RemoteRequest {
  const isStdin = argument === '-';
  try {
    const body = readFileSync(isStdin ? 0 : argument, 'utf8');
    return { method: 'PUT', endpoint: 'vm.create', body, fds: [] };
  } catch (error) {
    throw failure(osError(error), `Error reading from ${isStdin ? 'stdin' : 'file'}`);
  }
}

const U32_MAX = 2 ** 32 - 1;

function count(text: string): number {
  if (/^\+?\d+$/.test(text) && Number(text) <= U32_MAX) return Number(text);
  const reason = /^\+?\d+$/.test(text)
    ? 'number too large to fit in target type'
    : 'invalid digit found in string';
  throw failure(new Error(reason), 'Error parsing CPU count');
}

function size(what: string, text: string): number {
  const value = sizeOf(text);
  if (value !== undefined && Number.isSafeInteger(value)) return value;
  throw failure(new Error(`invalid value: ${text}`), `Error parsing ${what} size`);
}

function resize({ options }: Given): RemoteRequest {
  const of = (name: string, read: (text: string) => number) => {
    const text = options.get(name);
    return text === undefined ? undefined : read(text);
  };
  return putJson('vm.resize', {
    desired_vcpus: of('cpus', count),
    desired_ram: of('memory', (text) => size('memory', text)),
    desired_balloon: of('balloon', (text) => size('balloon', text)),
  });
}

const MEMORY_MODE: Schema = { type: 'string', enum: ['Precopy', 'Postcopy'] };
const POSITIVE = { type: 'integer', minimum: 1, maximum: Number.MAX_SAFE_INTEGER } as const;

const RECEIVE: Schema = {
  type: 'object',
  required: ['receiver_url'],
  properties: {
    receiver_url: { type: 'string' },
    tls_dir: { type: 'string' },
    memory_mode: MEMORY_MODE,
  },
};

const SEND: Schema = {
  type: 'object',
  required: ['destination_url'],
  properties: {
    destination_url: { type: 'string' },
    local: { type: 'boolean' },
    downtime_ms: POSITIVE,
    timeout_s: POSITIVE,
    timeout_strategy: { type: 'string', enum: ['Cancel', 'Ignore'] },
    connections: { type: 'integer', minimum: 1, maximum: 128 },
    tls_dir: { type: 'string' },
    memory_mode: MEMORY_MODE,
  },
};

function migration(which: 'receive' | 'send', schema: Schema, argument: string): RemoteRequest {
  const isUrl = which === 'receive' && /^(unix|tcp):/.test(argument);
  const text = isUrl ? `receiver_url=${argument}` : argument;
  const failed = `Error parsing ${which} migration configuration`;
  return putJson(
    `vm.${which}-migration`,
    read(`${which} migration parameters`, schema, text, failed),
  );
}

const DESTINATION: Argument = { name: 'url', help: 'Where it goes: file:///DIRECTORY' };

const toUrl = (name: string, help: string): RemoteCommand => ({
  ...{ name, help, argument: DESTINATION, options: [] },
  request: ({ argument }) => putJson(`vm.${name}`, { destination_url: argument }),
});

export const COMMANDS: readonly RemoteCommand[] = [
  add('device', 'devices', 'device', 'Add a PCI device by VFIO'),
  add('disk', 'disks', 'disk', 'Add a disk'),
  add('fs', 'fs', 'filesystem', 'Add a directory of the host, by virtiofsd'),
  add(
    'generic-vhost-user',
    'generic_vhost_user',
    'generic vhost-user',
    'Add a virtio device whose backend speaks vhost-user',
  ),
  add('net', 'net', 'network', 'Add a network card; fd=[N,...] hands open taps over'),
  add('pmem', 'pmem', 'persistent memory', 'Add a file as persistent memory'),
  add('user-device', 'user_devices', 'user device', 'Add a PCI device by vfio-user'),
  add('vdpa', 'vdpa', 'vDPA device', 'Add a vDPA device'),
  add('vsock', 'vsock', 'vsock', 'Add sockets between guest and host'),
  put('boot', 'Boot the VM that was created'),
  toUrl('coredump', 'Write the memory of the guest to a file'),
  get('counters', 'Print what the devices have counted', 'vm.counters'),
  {
    ...{ name: 'create', help: 'Create a VM of a config in JSON', options: [] },
    argument: { name: 'path', help: 'The file, or - for standard input', fallback: '-' },
    request: create,
  },
  put('delete', 'Delete the VM'),
  get('info', 'Print config and state of the VM', 'vm.info'),
  put('nmi', 'Send an NMI to every vCPU'),
  put('pause', 'Pause the VM'),
  get('ping', 'Print version and process id of the VMM', 'vmm.ping'),
  put('power-button', 'Press the power button'),
  put('reboot', 'Boot the VM anew'),
  {
    ...{ name: 'receive-migration', help: 'Wait for a VM of another host', options: [] },
    argument: { name: 'config', help: 'unix:PATH, tcp:HOST:PORT, or the keys', schema: RECEIVE },
    request: ({ argument }) => migration('receive', RECEIVE, argument),
  },
  {
    ...{ name: 'remove-device', help: 'Take a device out of the VM', options: [] },
    argument: { name: 'id', help: 'Its id, as vm.info tells it' },
    request: ({ argument }) => putJson('vm.remove-device', { id: argument }),
  },
  {
    ...{ name: 'resize', help: 'Change vCPUs, RAM and balloon', request: resize },
    options: [
      { name: 'cpus', help: 'How many vCPUs' },
      { name: 'memory', help: 'How much RAM, in bytes, or with K, M or G' },
      { name: 'balloon', help: 'How large the balloon is, likewise' },
    ],
  },
  {
    ...{ name: 'resize-disk', help: 'Change the size of a disk' },
    options: [
      { name: 'disk', help: 'Its id', isRequired: true },
      { name: 'size', help: 'Its size, in bytes, or with K, M or G', isRequired: true },
    ],
    request: ({ options }) =>
      putJson('vm.resize-disk', {
        id: options.get('disk'),
        desired_size: size('disk', options.get('size') ?? ''),
      }),
  },
  {
    ...{ name: 'resize-zone', help: 'Change the size of a memory zone' },
    options: [
      { name: 'id', help: 'Its id', isRequired: true },
      { name: 'size', help: 'Its size, in bytes, or with K, M or G', isRequired: true },
    ],
    request: ({ options }) =>
      putJson('vm.resize-zone', {
        id: options.get('id'),
        desired_ram: size('memory', options.get('size') ?? ''),
      }),
  },
  {
    ...{ name: 'restore', help: 'Make a VM of a snapshot', options: [], request: restore },
    argument: { name: 'restore_config', help: 'The snapshot', schema: SCHEMAS.restore },
  },
  put('resume', 'Go on after a pause'),
  {
    ...{ name: 'send-migration', help: 'Send the VM to another host', options: [] },
    argument: { name: 'config', help: 'How', schema: SEND },
    request: ({ argument }) => migration('send', SEND, argument),
  },
  put('shutdown', 'Switch the VM off'),
  put('shutdown-vmm', 'End the VMM', 'vmm.shutdown'),
  toUrl('snapshot', 'Write the state of a paused VM to a directory'),
];
