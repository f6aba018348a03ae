/**
 * Both API documents against the product: every endpoint, every field of each request, every
 * example, every answer with its status; but for what the lists here give a reason for.
 */
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { Ajv } from 'ajv';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { parse } from 'yaml';
import { normalise, render } from '../../src/api/dialects.ts';
import { ROUTES } from '../../src/api/routes.ts';
import { guestConfig, kernelOf, QUIET } from './support/guests.ts';
import { type Answer, VmmProcess } from './support/vmm-process.ts';

interface Schema {
  $ref?: string;
  type?: string;
  properties?: Record<string, Schema>;
  items?: Schema;
  enum?: unknown[];
  default?: unknown;
  minimum?: number;
  example?: unknown;
}

interface Operation {
  requestBody?: { content: Record<string, { schema: Schema }> };
  responses: Record<string, { content?: Record<string, { schema: Schema }> }>;
}

interface Document {
  paths: Record<string, Partial<Record<'get' | 'put', Operation>>>;
  components: { schemas: Record<string, Schema> };
}

const read = (name: string): Document =>
  parse(readFileSync(join(import.meta.dirname, 'fixtures', name), 'utf8'));

/** The modes of consoles, two of which YAML reads as other values in the document of 2020. */
function mendModes(document: Document): Document {
  const mode = document.components.schemas['ConsoleConfig']?.properties?.['mode'];
  if (mode?.enum) mode.enum.push('Off', 'Null');
  return document;
}

const DOCUMENTS = {
  '2020': mendModes(read('api-2020.yaml')),
  today: read('api-v53.yaml'),
} as const;
type Era = keyof typeof DOCUMENTS;
const ERAS = Object.keys(DOCUMENTS) as Era[];

/** Of docs/api-compat.md: what is answered with 404, and nothing done. */
const UNSERVED = readFileSync(join(import.meta.dirname, '../../docs/api-compat.md'), 'utf8')
  .split('\n')
  .flatMap((line) => /^\| `(vmm?\.[a-z-]+)` \| not yet/.exec(line)?.[1] ?? []);

const endpoints = ERAS.flatMap((era) =>
  Object.entries(DOCUMENTS[era].paths).flatMap(([path, methods]) =>
    Object.keys(methods).map((method) => ({
      ...{ era, name: path.slice(1), method: method.toUpperCase() },
    })),
  ),
);

test.each(endpoints)('$era: $method $name is served, or a row says why not', (endpoint) => {
  const path = `/api/v1/${endpoint.name}`;
  const isServed = ROUTES.some((route) => route.path === path && route.method === endpoint.method);

  expect(isServed).toBe(!UNSERVED.includes(endpoint.name));
});

const resolve = (era: Era, { $ref, ...schema }: Schema): Schema =>
  $ref === undefined
    ? schema
    : (DOCUMENTS[era].components.schemas[$ref.split('/').at(-1) ?? ''] ?? {});

/** Texts that mean something, where the documents say nothing of their form. */
const TEXTS: Readonly<Record<string, string>> = {
  ip: '10.0.0.1',
  mask: '255.255.0.0',
  mac: '02:00:00:00:00:01',
  host_mac: '02:00:00:00:00:02',
  hotplug_method: 'VirtioMem',
  vhost_mode: 'Server',
  mode: 'Tty',
};

/** The same with such texts, and without what is null. */
const plausible = (value: unknown): unknown =>
  JSON.parse(JSON.stringify(value), (key, field) =>
    typeof field === 'string' ? (TEXTS[key] ?? field) : (field ?? undefined),
  );

/** With every field that the document has, none with its default. */
function wholeOf(era: Era, reference: Schema): unknown {
  const schema = resolve(era, reference);
  if (schema.properties)
    return Object.fromEntries(
      Object.entries(schema.properties).map(([name, field]) => [name, wholeOf(era, field)]),
    );
  switch (schema.type) {
    case 'array':
      return [wholeOf(era, schema.items ?? {})];
    case 'boolean':
      return schema.default !== true;
    case 'integer':
      return Math.max(schema.minimum ?? 0, 6);
    case 'string':
      return schema.enum?.find((value) => value !== schema.default) ?? 'text';
    default:
      return {};
  }
}

/** The paths of all that is in `sent` and not, or otherwise, in `kept`. */
function lostOf(sent: unknown, kept: unknown, path = ''): string[] {
  if (typeof sent !== 'object' || sent === null) return sent === kept ? [] : [path];
  if (typeof kept !== 'object' || kept === null) return [path];
  return Object.entries(sent).flatMap(([key, value]) =>
    lostOf(value, (kept as Record<string, unknown>)[key], path === '' ? key : `${path}.${key}`),
  );
}

/** Old names, which are taken and answered by the new one, as the original does. */
const RENAMED: Readonly<Record<string, string>> = {
  'generic-vhost-user': 'generic_vhost_user',
  'platform.serial_number': 'platform.system_serial_number',
  'platform.uuid': 'platform.system_uuid',
};

describe.each(ERAS)('%s', (era) => {
  const vmConfig: Schema = { $ref: '#/components/schemas/VmConfig' };

  test('every field of a config is known, and comes back from vm.info as it was', async () => {
    const whole = plausible(wholeOf(era, vmConfig));
    const { config, dialect } = normalise(whole);

    expect(dialect).toBe(era === 'today' ? 'today' : 'seed');
    const info = render({ config, state: 'Created', memoryActualSize: 0 }, dialect);
    const lost = lostOf(whole, (info as { config: unknown }).config);
    expect(lost.filter((path) => !(path in RENAMED))).toEqual([]);
  });

  test('every example of a config is taken', () => {
    const { example } = resolve(era, vmConfig);
    if (example !== undefined) expect(() => normalise(plausible(example))).not.toThrow();
  });
});

/** What our answers may be beside those that a document lists. */
const OTHER_STATUSES: Readonly<Record<string, string>> = {
  '200 vmm.shutdown': 'as every version has answered',
  '400': 'a body that is refused',
  '404': 'there is no VM',
  '405': 'the VM is in another state',
  '409': 'what is asked for is taken',
};

const VERBS = ['boot', 'pause', 'resume', 'reboot', 'shutdown', 'delete'];
const WALKS = [[], ['vm.create'], ['vm.create', 'vm.boot'], ['vm.create', 'vm.boot', 'vm.pause']];

describe.each(ERAS)('answers in the dialect of %s', (era) => {
  let vmm: VmmProcess;

  beforeEach(async () => {
    vmm = await VmmProcess.start();
  });

  afterEach(() => vmm[Symbol.asyncDispose]());

  function configOf(): unknown {
    if (era === 'today') return guestConfig(vmm.folder);
    const kernel = join(vmm.folder, 'vmlinux');
    writeFileSync(kernel, kernelOf(QUIET));
    return {
      ...{ kernel: { path: kernel }, cmdline: { args: '' }, memory: { size: 64 << 20 } },
      ...{ serial: { mode: 'Null' }, console: { mode: 'Off' } },
    };
  }

  function expectListed(name: string, answer: Answer): void {
    const operation = Object.values(DOCUMENTS[era].paths[`/${name}`] ?? {})[0];
    const listed = operation?.responses[String(answer.status)];
    const isOther =
      `${answer.status} ${name}` in OTHER_STATUSES || `${answer.status}` in OTHER_STATUSES;
    expect(listed !== undefined || isOther, `${name}: ${answer.text}`).toBe(true);
    const schema = listed?.content?.['application/json']?.schema;
    if (schema === undefined) return;
    const ajv = new Ajv({ strict: false, validateFormats: false });
    ajv.addSchema({ $id: 'api', ...(DOCUMENTS[era] as object) });
    const validate = ajv.compile({ $ref: `api${schema.$ref}` });
    expect(validate(plausible(answer.body)), JSON.stringify(validate.errors)).toBe(true);
  }

  const call = (name: string) =>
    /ping|info|counters/.test(name)
      ? vmm.get(name)
      : vmm.put(name, name === 'vm.create' ? configOf() : undefined);

  async function visit(walk: readonly string[], name: string): Promise<void> {
    for (const verb of walk) await call(verb);
    expectListed(name, await call(name));
    await vmm.put('vm.delete');
  }

  test('each has a listed status, and a body of its schema, whatever the state', async () => {
    const names = ['vmm.ping', ...['info', 'counters', 'create', ...VERBS].map((x) => `vm.${x}`)];
    const known = names.filter((name) => `/${name}` in DOCUMENTS[era].paths);
    for (const walk of WALKS) for (const name of known) await visit(walk, name);
    expectListed('vmm.shutdown', await vmm.put('vmm.shutdown'));
  });
});
