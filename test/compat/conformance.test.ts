/** The rows of docs/api-compat.md on flags and fields, against what the product does with each. */
import { spawnSync } from 'node:child_process';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { conformance, type Row, rowsOf, type Surface } from '../../scripts/conformance.ts';
import { OPTIONS } from '../../src/api/cli-options.ts';
import { normalise } from '../../src/api/dialects.ts';
import { COMMANDS } from '../../src/api/remote-commands.ts';
import { ROUTES } from '../../src/api/routes.ts';
import type { Schema } from '../../src/schema.ts';
import { checkBootable } from '../../src/vmm/config/check.ts';
import { SCHEMAS } from '../../src/vmm/schema-tables.ts';
import { kernelOf, QUIET } from './support/guests.ts';
import { chainOf, remote } from './support/remote.ts';
import { LAUNCHER, VmmProcess } from './support/vmm-process.ts';

const names = (surface: Surface) => rowsOf(surface).map(({ name }) => name);
const refused = ({ state }: Row) => state === 'refused';
const stateOf = new Map(rowsOf('Fields').map(({ name, state }) => [name, state]));

test.each<Surface>(['Endpoints', 'Flags', 'Fields'])(
  '%s: what does not work says why',
  (surface) => {
    const silent = rowsOf(surface).filter(({ state, why }) => state !== 'works' && why === '');

    expect(silent).toEqual([]);
    expect(new Set(names(surface)).size).toBe(names(surface).length);
    expect(conformance()).toContain(`of ${names(surface).length} ${surface.toLowerCase()}`);
  },
);

const pathsOf = ({ properties = {} }: Schema, at: string[] = []): string[][] =>
  Object.entries(properties).flatMap(([name, field]) => [
    [...at, name],
    ...pathsOf(field.items ?? field, [...at, name]),
  ]);

/** Texts that mean something, and so does no other. */
const TEXTS: Readonly<Record<string, string>> = {
  ...{ mac: '02:00:00:00:00:01', host_mac: '02:00:00:00:00:02' },
  ...{ ip: '10.0.0.1', mask: '255.255.0.0', profile: 'Host' },
};

/** Not the default; of an object, what has none. */
function sampleOf(name: string, schema: Schema): unknown {
  const { type, items = schema, properties = {}, required = [], minimum = 0 } = schema;
  if (type === 'array') return [sampleOf(name, items)];
  if (type === 'boolean') return schema.default !== true;
  if (type === 'integer') return Math.max(minimum, 6);
  if (type === 'string')
    return TEXTS[name] ?? schema.enum?.find((value) => value !== schema.default) ?? 'text';
  return Object.fromEntries(
    Object.entries(properties)
      .filter(([key, field]) => required.includes(key) && field.default === undefined)
      .map(([key, field]) => [key, sampleOf(key, field)]),
  );
}

/** What the path leads to is set, and around it what has to be. */
function configWith(schema: Schema, [name = '', ...rest]: string[]): object {
  const field = schema.properties?.[name] ?? schema;
  const inner = rest.length > 0 ? configWith(field.items ?? field, rest) : undefined;
  const value = inner === undefined ? sampleOf(name, field) : field.items ? [inner] : inner;
  const isBare = field.wire?.single && Array.isArray(value);
  return { ...(sampleOf('', schema) as object), [name]: isBare ? value[0] : value };
}

function bootRefusal(path: string[]): string {
  const body = configWith(SCHEMAS.vmCreate, path) as { payload?: object };
  const isOld = path[0] !== undefined && SCHEMAS.vmCreate.properties?.[path[0]]?.wire?.seed;
  const payload = isOld
    ? { kernel: { path: '/k' } }
    : { payload: { kernel: '/k', ...body.payload } };
  try {
    checkBootable(normalise({ ...payload, ...body, ...(!isOld && payload) }).config);
    return '';
  } catch (error) {
    return (error as Error).message;
  }
}

/** The bodies of endpoints that work, less those that are a part of the config. */
const BODIES = {
  'vm.resize': SCHEMAS.resize,
  'vm.resize-zone': SCHEMAS.resizeZone,
  'vm.resize-disk': SCHEMAS.resizeDisk,
  'vm.remove-device': SCHEMAS.removeDevice,
};

describe('fields', () => {
  const paths = pathsOf(SCHEMAS.vmCreate);

  test('each has a row', () => {
    const ofBodies = Object.entries(BODIES).flatMap(([endpoint, schema]) =>
      pathsOf(schema).map((path) => `${endpoint}: ${path.join('.')}`),
    );
    expect(names('Fields')).toEqual([...paths.map((path) => path.join('.')), ...ofBodies]);
  });

  test('a row says "refused" where a boot refuses the field by name, and nowhere else', () => {
    for (const path of paths) {
      const name = path.join('.');
      const isRefused = stateOf.get(name) === 'refused';
      expect(bootRefusal(path), name).toMatch(isRefused ? /^Not supported yet: / : /^$/);
    }
  });
});

/** Of the original, if it is built for them. */
const FEATURES = [
  ...['dbus-object-path', 'dbus-service-name', 'dbus-system-bus', 'fw-cfg-config', 'gdb'],
  ...['host-data', 'igvm', 'ivshmem', 'pvmemcontrol'],
];

/** What makes sense after each flag that is refused. */
const VALUES: Readonly<Record<string, string>> = {
  restore: 'source_url=file:///nowhere',
  tpm: 'socket=/nowhere',
  vdpa: 'path=/nowhere',
};

describe('flags', () => {
  let folder: string;

  beforeAll(() => {
    folder = mkdtempSync(join(tmpdir(), 'flags-'));
    writeFileSync(join(folder, 'vmlinux'), kernelOf(QUIET));
  });

  afterAll(() => rmSync(folder, { recursive: true }));

  test('each has a row', () => {
    const all = [...OPTIONS.map(({ name }) => (name === 'v' ? '-v' : `--${name}`))];

    expect(names('Flags').sort()).toEqual([...all, ...FEATURES.map((name) => `--${name}`)].sort());
  });

  test('one that gives a field works if the field does', () => {
    const states = new Map(rowsOf('Flags').map(({ name, state }) => [name, state]));
    for (const { name, field } of OPTIONS.filter(({ field }) => field !== undefined))
      expect(states.get(`--${name}`), name).toBe(stateOf.get(field ?? ''));
  });

  test.each(rowsOf('Flags').filter(refused))('$name is refused by name', ({ name }) => {
    const [flag, isOfVm] = [name.slice(2), !/backend|restore|firmware/.test(name)];
    const vm = ['--kernel', join(folder, 'vmlinux'), '--console', 'off', '--memory', 'size=64M'];

    const ended = spawnSync(
      LAUNCHER,
      [...(isOfVm ? vm : []), name, VALUES[flag] ?? join(folder, 'vmlinux')],
      { encoding: 'utf8', env: {}, timeout: 10_000 },
    );

    const { field = name } = OPTIONS.find((option) => option.name === flag) ?? {};
    expect([1, 2]).toContain(ended.status);
    expect(ended.stderr).toMatch(/Not supported|unexpected argument/);
    expect(ended.stderr).toContain(field);
  });
});

/** What ch-remote is to be told to send. */
const ARGUMENTS: Readonly<Record<string, string>> = {
  coredump: 'file:///nowhere',
  'receive-migration': 'unix:/nowhere',
  restore: 'source_url=file:///nowhere',
  'send-migration': 'destination_url=unix:/nowhere',
  snapshot: 'file:///nowhere',
};

describe('endpoints', () => {
  const rows = rowsOf('Endpoints').filter((row) => refused(row) && !row.name.includes('.add-'));

  test('ch-remote has a subcommand for each', () => {
    const sent = COMMANDS.map(({ name }) =>
      name === 'ping' ? 'vmm.ping' : name === 'shutdown-vmm' ? 'vmm.shutdown' : `vm.${name}`,
    );

    expect(sent.sort()).toEqual(names('Endpoints').sort());
  });

  test.each(rows)(
    '$name is refused by name, to ch-remote, too, and changes nothing',
    async (row) => {
      await using vmm = await VmmProcess.start();
      const command = row.name.slice('vm.'.length);

      const { status, body } = await vmm.put(row.name, {});
      const ended = await remote(['--api-socket', vmm.socket, command, ARGUMENTS[command] ?? '']);

      expect(status).toBe(400);
      const text = `Not supported yet: ${row.name}`;
      expect(body).toEqual(['Error from API', expect.any(String), text]);
      expect(ended).toMatchObject({ exit: 1, stdout: '' });
      expect(chainOf(ended).slice(2)).toEqual(body);
      expect((await vmm.put(row.name)).status).toBe(400);
      expect((await vmm.get(row.name)).status).toBe(405);
      expect(await vmm.state()).toBe('None');
      expect(ROUTES.some(({ path }) => path.endsWith(row.name))).toBe(true);
    },
  );
});
