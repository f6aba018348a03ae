/**
 * The command line: what it asks for, or what is wrong with it. Options of the VM's config become
 * the body that vm.create would take, and go through the same edge.
 */
import { VmmError } from '../errors.ts';
import { unknownToken } from '../log.ts';
import type { Schema } from '../schema.ts';
import { checkConfig } from '../vmm/config/check.ts';
import type { RestoreConfig } from '../vmm/config/restore.ts';
import type { VmConfig } from '../vmm/config.ts';
import { type HostFacts, systemHost } from '../vmm/host.ts';
import { SCHEMAS } from '../vmm/schema-tables.ts';
import { OPTIONS, PAYLOADS } from './cli-options.ts';
import { type Scanned, scan, UsageError } from './cli-scan.ts';
import { normaliseCli, normaliseRestore } from './dialects.ts';
import { helpText, VERSION_TEXT } from './help.ts';
import { failure, readOptions } from './read-options.ts';

/** A file by its name, or one that was inherited open. */
type PathOrFd = { path: string } | { fd: number };

export interface CommandLine {
  /** The VM to create and boot at once; it was checked as vm.create checks. */
  config?: VmConfig;
  /** The VM to restore at once, if there is none to boot. */
  restore?: RestoreConfig;
  apiSocket?: PathOrFd;
  eventMonitor?: PathOrFd;
  logFile?: string;
  logFormat?: string;
  /** 0 to log warnings and errors, 1 info, 2 debug, 3 and more trace. */
  verbosity: number;
  noShutdown: boolean;
  /** Whether it was asked for by name, and not to be off. */
  seccomp: boolean;
}

/**
 * Reads the arguments behind the program's name. Nothing is opened.
 *
 * @throws UsageError with a text to print and the exit status; VmmError 'invalid-config' or
 *   'conflict' for what options say, its chain as it is printed with exit status 1.
 */
export function parseCommandLine(
  args: readonly string[],
  host: HostFacts = systemHost,
): CommandLine {
  if (args.length === 0) throw new UsageError(helpText());
  const found = scan(args);
  if (found.has('help')) throw new UsageError(helpText(), 'stdout');
  if (found.has('version')) throw new UsageError(VERSION_TEXT, 'stdout');
  refuseBackends(found);
  const one = (name: string) => found.get(name)?.[0];
  const [apiSocket, eventMonitor] = [one('api-socket'), one('event-monitor')];
  const [logFile, logFormat, restore] = [one('log-file'), one('log-format'), one('restore')];
  const hasPayload = PAYLOADS.some((name) => found.has(name));
  if (logFormat !== undefined) checkLogFormat(logFormat);
  return {
    ...(logFile !== undefined && { logFile }),
    ...(logFormat !== undefined && { logFormat }),
    ...(apiSocket !== undefined && { apiSocket: socketOf(apiSocket) }),
    ...(eventMonitor !== undefined && { eventMonitor: monitorOf(eventMonitor) }),
    ...(hasPayload && { config: configOf(found, host) }),
    ...(!hasPayload && restore !== undefined && { restore: restoreOf(restore) }),
    verbosity: found.get('v')?.length ?? 0,
    noShutdown: found.has('no-shutdown'),
    seccomp: (one('seccomp') ?? 'false') !== 'false',
  };
}

/** In 2020 the same program served other VMs' devices, too. */
function refuseBackends(found: Scanned): void {
  const backend = OPTIONS.find(({ name, old }) => old && found.has(name));
  if (!backend) return;
  const remedy = 'Start a vhost-user backend of its own, as qemu-storage-daemon is for disks';
  throw failure(new Error(remedy), `Not supported: --${backend.name}`);
}

function checkLogFormat(format: string): void {
  const unknown = unknownToken(format);
  if (unknown !== undefined)
    throw failure(new Error(`Unknown format token '${unknown}'`), 'Error parsing logger format');
}

/** Whatever is neither `path=` nor `fd=` is a path as it stands. */
function socketOf(text: string): PathOrFd {
  const [, fd] = /^fd=(\d+)$/.exec(text) ?? [];
  if (fd !== undefined) return { fd: Number(fd) };
  const path = text.replace(/^path=/, '');
  if (path !== '') return { path };
  throw failure(new Error('The path is empty: give one, or fd=N'), 'Error parsing --api-socket');
}

const MONITOR: Schema = {
  type: 'object',
  properties: {
    path: { type: 'string' },
    fd: { type: 'integer', minimum: 0, maximum: 2 ** 31 - 1 },
  },
};

function monitorOf(text: string): PathOrFd {
  const options = readOptions('--event-monitor', MONITOR, text);
  if (Object.keys(options).length === 1) return options as PathOrFd;
  throw failure(new Error('Give either path= or fd='), 'Error parsing --event-monitor');
}

const restoreOf = (text: string): RestoreConfig =>
  within(
    () => normaliseRestore(readOptions('--restore', SCHEMAS.restore, text)),
    (error) => failure(error, 'Error parsing restore'),
  );

function configOf(found: Scanned, host: HostFacts): VmConfig {
  const body = within(
    () => bodyOf(found),
    (error) => failure(error, 'Error parsing config'),
  );
  const config = within(
    () => normaliseCli(body),
    ({ cause }) => failure(cause, 'Error parsing config'),
  );
  within(
    () => checkConfig(config, host),
    ({ kind, cause }) =>
      new VmmError(kind, 'Error parsing config', failure(cause, 'Error validating configuration')),
  );
  return config;
}

/** Tells of a failure in the words of the command line. */
function within<T>(what: () => T, retold: (error: VmmError) => VmmError): T {
  try {
    return what();
  } catch (error) {
    throw error instanceof VmmError ? retold(error) : error;
  }
}

/** The body of vm.create that says the same. */
function bodyOf(found: Scanned): object {
  const body: Record<string, unknown> = {};
  for (const { name, field } of OPTIONS) {
    const texts = found.get(name);
    if (field === undefined || texts === undefined) continue;
    const [outer = '', inner] = field.split('.');
    const schema = schemaAt(SCHEMAS.vmCreate, field.split('.'));
    const values = texts.map((text) => readValue(name, schema.items ?? schema, text));
    const value = schema.items && !schema.wire?.single ? values : values[0];
    if (inner === undefined) body[outer] = value;
    else body[outer] = { ...((body[outer] ?? defaultOf(outer)) as object), [inner]: value };
  }
  refuseUselessCache(body);
  return body;
}

/** As in 2020. In a body of then both stand together always. */
function refuseUselessCache({ fs = [] }: { fs?: { dax?: boolean; cache_size?: number }[] }): void {
  const share = fs.find(({ dax, cache_size }) => dax === false && cache_size !== undefined);
  if (!share) return;
  const remedy = `cache_size is ${share.cache_size} with dax=off: drop one of them`;
  throw failure(new Error(remedy), 'Error parsing --fs');
}

function schemaAt(schema: Schema, [name, ...rest]: string[]): Schema {
  const field = name === undefined ? undefined : schema.properties?.[name];
  return field ? schemaAt(field, rest) : schema;
}

/** What of an object stands there before one option sets a field of it. */
const defaultOf = (field: string): unknown => SCHEMAS.vmCreate.properties?.[field]?.default ?? {};

function readValue(name: string, schema: Schema, text: string): unknown {
  if (schema.type === 'boolean') return true;
  return schema.type === 'string' ? text : readOptions(`--${name}`, schema, text);
}
