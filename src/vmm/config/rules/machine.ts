/** What the payload, the consoles and the machine around the devices must be. */
import { hex } from '../../../bytes.ts';
import type { VmConfig } from '../../config.ts';
import { deviceIds } from '../../devices.ts';
import { PORTS } from '../../layout.ts';
import { ramBytes } from '../memory.ts';
import { ramSharers } from '../shared-ram.ts';
import { each, type Fault, type Rule } from './rule.ts';

const firmwareAlone: Rule = ({ payload: { firmware, kernel } = {} }) =>
  firmware === undefined || kernel === undefined
    ? undefined
    : {
        text: 'Payload configuration is not bootable',
        remedy:
          'Specifying a kernel is not supported when a firmware is provided: ' +
          `drop payload.kernel ${kernel} or payload.firmware ${firmware}`,
      };

const terminals = ({ serial, console, debug_console }: VmConfig) =>
  Object.entries({ serial, console, debug_console });

const terminalFile: Rule = (config) => {
  const [at] =
    terminals(config).find(([, { mode, file }]) => mode === 'File' && (file ?? '') === '') ?? [];
  return at === undefined
    ? undefined
    : {
        text: 'Path missing when using file console mode',
        remedy: `${at}.mode is File: name the file in ${at}.file`,
      };
};

const terminalSocket: Rule = ({ serial, console }) => {
  const [at] =
    Object.entries({ serial, console }).find(
      ([, { mode, socket = '' }]) => mode === 'Socket' && socket === '',
    ) ?? [];
  return at === undefined
    ? undefined
    : {
        text: 'Path missing when using socket console mode',
        remedy: `${at}.mode is Socket: name the socket in ${at}.socket`,
      };
};

const noSocketElsewhere: Rule = ({ debug_console: { mode } }) =>
  mode !== 'Socket'
    ? undefined
    : {
        text: 'No socket option support for console device',
        remedy: 'debug_console.mode is Socket: give Off, Null, Pty, Tty or File, or use serial',
      };

const debugPort: Rule = ({ debug_console: { mode, iobase: port } }) => {
  if (mode === 'Off' || port === undefined) return undefined;
  const { debugConsole, ...others } = PORTS;
  const [owner] =
    Object.entries(others).find(([, { base, count }]) => port >= base && port < base + count) ?? [];
  return owner === undefined
    ? undefined
    : {
        text: `Port ${hex(port)} of the debug console is taken`,
        remedy:
          `debug_console.iobase is ${port}, a port of ${owner}: ` +
          `give a free one such as ${debugConsole.base}`,
      };
};

const uniqueIds: Rule = (config) => {
  const ids = [...deviceIds(config), ...(config.rate_limit_groups ?? []).map(({ id }) => id)];
  const id = ids.find((id, i) => ids.indexOf(id) < i);
  return id === undefined
    ? undefined
    : {
        text: `Identifier ${id} is not unique`,
        remedy: `Two devices or groups have the id ${id}: give each an id of its own`,
        kind: 'conflict',
      };
};

const reservedIds: Rule = (config) => {
  const id = deviceIds(config).find((id) => id.startsWith('__'));
  return id === undefined
    ? undefined
    : {
        text: `Identifier ${id} is not invalid`,
        remedy: `A device has the id ${id}: ids that start with __ are the machine's own`,
      };
};

const ID_BYTES_MAX = 255;

/** Logs and thread names carry ids; a line end in one would forge a line. */
const CONTROL_CHARACTER = /\p{Cc}/u;

const readableIds: Rule = (config) => {
  const id = deviceIds(config).find(
    (id) => Buffer.byteLength(id) > ID_BYTES_MAX || CONTROL_CHARACTER.test(id),
  );
  return id === undefined
    ? undefined
    : {
        text: 'Identifier is too long or has control characters',
        remedy:
          `A device has the id ${JSON.stringify(id.slice(0, ID_BYTES_MAX))}: ` +
          `give at most ${ID_BYTES_MAX} bytes that can be printed`,
      };
};

/** What lives in a process of its own, and reads and writes guest RAM from there. */
const sharedRam: Rule = (config) => {
  const { memory } = config;
  const parts = memory.zones?.length ? memory.zones : [memory];
  if (parts.every(({ shared, hugepages }) => shared || hugepages)) return undefined;
  const [user] = ramSharers(config);
  if (user === undefined) return undefined;
  const kind = user.startsWith('user_devices') ? 'user devices' : 'vhost-user';
  return {
    text: `Using ${kind} requires using shared memory or huge pages`,
    remedy: `${user} is given and memory.shared is false: set it to true, or drop it`,
  };
};

/** In 2020 a file in a RAM disk was the way to share RAM. */
const sharedRamUnlessFile: Rule = (config, host) =>
  config.memory.file === undefined ? sharedRam(config, host) : undefined;

const vfioSource = each('devices', ({ path, fd }, at) =>
  (path === undefined) !== (fd === undefined)
    ? undefined
    : {
        text: 'VFIO device config must specify `path=` or `fd=`',
        remedy: `${at} has ${path === undefined ? 'neither' : 'both'}: give one of them`,
      },
);

const vfioPaths: Rule = ({ devices = [] }) => {
  const paths = devices.flatMap(({ path }) => path ?? []);
  const path = paths.find((path, i) => paths.indexOf(path) < i);
  return path === undefined
    ? undefined
    : {
        text: `Duplicated device path: ${path}`,
        remedy: `Two of devices have the path ${path}: name each device once`,
        kind: 'conflict',
      };
};

const balloonSize: Rule = ({ balloon, memory }) =>
  balloon === undefined || balloon.size < ramBytes(memory)
    ? undefined
    : {
        text: `Balloon size (${balloon.size}) greater than RAM (${ramBytes(memory)})`,
        remedy: `balloon.size is ${balloon.size}: give less than the guest's RAM`,
      };

const UUID = /^[0-9a-f]{8}(-?[0-9a-f]{4}){3}-?[0-9a-f]{12}$/i;

const uuid: Rule = ({ platform: { system_uuid } = {} }) =>
  system_uuid === undefined || UUID.test(system_uuid)
    ? undefined
    : {
        text: `Failure to parse uuid: ${system_uuid}`,
        remedy:
          `platform.system_uuid is ${system_uuid}: give a UUID ` +
          'such as 4fa42d6f-5a5c-4d7c-9f5c-0b1d9d2d5a5c',
      };

const ACCESS = ['r', 'w', 'rw'];

const landlockAccess = each('landlock_rules', ({ access }, at): Fault | undefined =>
  ACCESS.includes(access)
    ? undefined
    : {
        text: `Invalid Landlock access: Invalid access: ${access}`,
        remedy: `${at}.access is ${access}: give ${ACCESS.join(', ')}`,
      },
);

export const MACHINE_RULES: readonly Rule[] = [
  firmwareAlone,
  terminalFile,
  terminalSocket,
  noSocketElsewhere,
  debugPort,
  uniqueIds,
  reservedIds,
  readableIds,
  sharedRamUnlessFile,
  vfioSource,
  vfioPaths,
  balloonSize,
  uuid,
  landlockAccess,
];
