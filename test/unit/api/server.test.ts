import { mkdtempSync, rmSync } from 'node:fs';
import { connect } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';
import type { VmmApi } from '../../../src/api/routes.ts';
import { createApi } from '../../../src/api/server.ts';
import type { WireServer } from '../../../src/api/wire.ts';
import { type ErrorKind, VmmError } from '../../../src/errors.ts';

let directory: string;
let path: string;
let server: WireServer;
let called: unknown[][];
let failure: Error | undefined;

const INFO = {
  config: { payload: { kernel: '/é' } },
  dialect: 'today',
  state: 'Created',
  memoryActualSize: 1,
};

/** Notes what was asked of it, and does it unless told to fail. */
const vmm = new Proxy({} as VmmApi, {
  get:
    (_target, verb) =>
    async (...args: unknown[]) => {
      called.push([verb, ...args]);
      if (failure) throw failure;
      return verb === 'info' ? INFO : undefined;
    },
});

beforeEach(async () => {
  called = [];
  failure = undefined;
  directory = mkdtempSync(join(tmpdir(), 'server-'));
  path = join(directory, 'api.sock');
  server = await createApi(vmm);
  await server.listen({ path });
});

afterEach(async () => {
  await server.close();
  rmSync(directory, { recursive: true });
});

interface Answer {
  status: number;
  text: string;
  head: string;
  body: unknown;
}

/** One request on a connection of its own. */
async function request(
  method: string,
  target: string,
  body?: string,
  header = '',
): Promise<Answer> {
  const socket = connect(path);
  const length = body === undefined ? '' : `Content-Length: ${Buffer.byteLength(body)}\r\n`;
  socket.end(`${method} ${target} HTTP/1.1\r\n${header}${length}\r\n${body ?? ''}`);
  let text = '';
  for await (const bytes of socket) text += bytes;
  const [head = '', rest] = text.split('\r\n\r\n');
  return {
    status: Number(head.split(' ')[1]),
    text,
    head,
    body: rest ? JSON.parse(rest) : undefined,
  };
}

const put = (name: string, body?: string, header?: string) =>
  request('PUT', `/api/v1/${name}`, body, header);

test('vmm.ping says which version this is, and who', async () => {
  const { status, head, body } = await request('GET', '/api/v1/vmm.ping');

  expect(status).toBe(200);
  expect(head).toContain('Content-Type: application/json');
  expect(body).toEqual({
    build_version: expect.stringMatching(/^v/),
    version: '49.0.0',
    pid: process.pid,
    features: ['kvm'],
  });
});

test('vm.info is answered in the dialect of the VM, as ASCII', async () => {
  const { text, body } = await request('GET', '/api/v1/vm.info');

  expect(text).toContain('\\u00e9');
  expect(body).toEqual({
    config: { payload: { kernel: '/é' } },
    state: 'Created',
    memory_actual_size: 1,
  });
});

test.each(['boot', 'shutdown', 'reboot', 'pause', 'resume', 'delete'])(
  'vm.%s is done and answered with 204',
  async (verb) => {
    const { status } = await put(`vm.${verb}`);

    expect(status).toBe(204);
    expect(called[0]?.[0]).toBe(verb);
  },
);

test('vmm.shutdown answers 200 without a body, whatever it was given', async () => {
  const { status, head } = await put('vmm.shutdown', '{}');

  expect(status).toBe(200);
  expect(head).toContain('Content-Length: 0');
  expect(called).toEqual([['exit', 0]]);
});

test('vm.create hands on the config and the dialect that it was in', async () => {
  const { status } = await put(
    'vm.create',
    '{"payload":{"kernel":"/k"},"__proto__":{"polluted":1}}',
    'Content-Type: text/plain\r\n',
  );

  expect(status).toBe(204);
  expect(called).toEqual([
    ['create', expect.objectContaining({ payload: { kernel: '/k' } }), 'today'],
  ]);
  expect({}).not.toHaveProperty('polluted');
});

test.each<[ErrorKind, number]>([
  ['invalid-config', 400],
  ['not-found', 404],
  ['not-created', 404],
  ['bad-state', 405],
  ['conflict', 409],
  ['host', 500],
  ['internal', 500],
])('a failure of kind %s is %i and an array of texts', async (kind, status) => {
  failure = new VmmError(kind, 'The VM could not boot', new Error('VM config is missing'));

  const answer = await put('vm.boot');

  expect(answer.status).toBe(status);
  expect(answer.body).toEqual(['Error from API', 'The VM could not boot', 'VM config is missing']);
});

test('a failure of kind busy is 429, and says no more than that', async () => {
  failure = new VmmError('busy', 'The VM could not be resized');

  const answer = await put('vm.boot');

  expect(answer.status).toBe(429);
  expect(answer.body).toEqual(['Too Many Requests']);
});

test('an error nobody expected is a 500 that says what it was', async () => {
  failure = new TypeError('x is not a function');

  const answer = await put('vm.boot');

  expect(answer).toMatchObject({ status: 500, body: ['Error from API', 'x is not a function'] });
});

test.each([
  ['broken JSON', '{"a'],
  ['a byte order mark', '\ufeff{}'],
  ['200 levels', '['.repeat(200) + ']'.repeat(200)],
  ['a million open brackets', '['.repeat(1_000_000)],
  ['no object', '3'],
  ['a wrong type', '{"cpus":{"boot_vcpus":"1","max_vcpus":1},"payload":{}}'],
  ['a number that is too large', '{"memory":{"size":1e999},"payload":{}}'],
])('vm.create with %s is 400, and says why', async (_name, body) => {
  const answer = await put('vm.create', body);

  expect(answer.status).toBe(400);
  expect(answer.body).toEqual(['Failed to deserialize JSON', expect.stringMatching(/./)]);
  expect(called).toEqual([]);
});

test.each([
  ['an action with a body', 'vm.boot', '{}'],
  ['vm.create without one', 'vm.create', undefined],
  ['vm.create with an empty one', 'vm.create', ''],
])('%s is 400', async (_name, verb, body) => {
  const answer = await put(verb, body);

  expect(answer).toMatchObject({ status: 400, body: ['Bad Request'] });
  expect(called).toEqual([]);
});

test('a body on GET is not looked at', async () => {
  expect(await request('GET', '/api/v1/vmm.ping', '{"')).toMatchObject({ status: 200 });
});

test.each([
  ['GET', '/'],
  ['GET', '/api/v1/vm.info/'],
  ['GET', '/api/v1/vm.info?x=1'],
  ['GET', '/api/v1/VM.info'],
  ['GET', '//api/v1/vm.info'],
  ['GET', '/api/v1/vm.%69nfo'],
  ['GET', '/api/v1/%zz'],
  ['GET', 'vmm.ping'],
  ['GET', '*'],
  ['PUT', '/api/v1/vm.nothing'],
  ['DELETE', '/api/v1/vm'],
])('%s %s is 404', async (method, target) => {
  expect(await request(method, target, method === 'PUT' ? '{"' : undefined)).toMatchObject({
    status: 404,
    body: ['Not Found'],
  });
});

test.each([
  ['POST', 'vmm.ping', 'GET'],
  ['PUT', 'vm.info', 'GET'],
  ['GET', 'vm.boot', 'PUT'],
  ['put', 'vm.boot', 'PUT'],
  ['PATCH', 'vm.create', 'PUT'],
  ['FOO', 'vm.create', 'PUT'],
])('%s on %s is 405 and says what is allowed', async (method, name, allowed) => {
  const answer = await request(method, `/api/v1/${name}`);

  expect(answer).toMatchObject({ status: 405, body: ['Method Not Allowed'] });
  expect(answer.head).toContain(`Allow: ${allowed}\r\n`);
});

test('an absolute URI names the same endpoint', async () => {
  expect(await request('GET', 'http://localhost/api/v1/vmm.ping')).toMatchObject({ status: 200 });
});
