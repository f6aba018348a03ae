/**
 * What clients get wrong about vsock, and what a killed VMM leaves: each mistake has its status and
 * a text that names field and value, and afterwards a good VM boots and its socket is there.
 */
import { once } from 'node:events';
import { existsSync, mkdirSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { connect, createServer } from 'node:net';
import { join } from 'node:path';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from 'vitest';
import { guestConfig } from './support/guests.ts';
import { type Answer, VmmProcess } from './support/vmm-process.ts';

let vmm: VmmProcess;

beforeAll(async () => {
  vmm = await VmmProcess.start();
});

afterAll(() => vmm[Symbol.asyncDispose]());

const at = (name: string) => join(vmm.folder, name);
const socket = () => at('vsock');
const withVsock = (vsock: object, process = vmm) => ({
  ...guestConfig(process.folder),
  vsock: { cid: 3, socket: join(process.folder, 'vsock'), ...vsock },
});
const create = (vsock: object = {}) => vmm.put('vm.create', withVsock(vsock));
const texts = ({ body }: Answer) => body as string[];

beforeEach(() => rmSync(socket(), { recursive: true, force: true }));

/** Whatever a test did to it. */
afterEach(async () => {
  rmSync(socket(), { recursive: true, force: true });
  expect(await vmm.put('vm.delete')).toMatchObject({ status: 204 });
  expect(await create()).toMatchObject({ status: 204 });
  expect(await vmm.put('vm.boot')).toMatchObject({ status: 204 });
  expect(existsSync(socket())).toBe(true);
  expect(await vmm.put('vm.delete')).toMatchObject({ status: 204 });
  expect(existsSync(socket())).toBe(false);
});

test.each<[object, string, string]>([
  [{ cid: 0 }, '0 is a special VSOCK CID', 'vsock.cid is 0: give 3 or more'],
  [{ cid: 1 }, '1 is a special VSOCK CID', 'vsock.cid is 1: give 3 or more'],
  [{ cid: 2 }, '2 is a special VSOCK CID', 'vsock.cid is 2: give 3 or more'],
  [{ cid: 2 ** 32 - 1 }, '4294967295 is a special VSOCK CID', 'vsock.cid is 4294967295: give 3'],
  [{ socket: '' }, 'path (0) is not within 1 to 107', 'name a path of at most 107 bytes'],
  [{ socket: `/tmp/${'é'.repeat(52)}` }, 'path (109) is not within', 'name a path of at most 107'],
])('%j: 400 at vm.create', async (vsock, text, remedy) => {
  const answer = await create(vsock);

  expect(answer.status).toBe(400);
  expect(texts(answer)[3]).toContain(text);
  expect(texts(answer)[4]).toContain(remedy);
});

test.each([2 ** 32, -1, 3.5, '3'])('a CID of %j: 400 at vm.create', async (cid) => {
  const answer = await create({ cid });

  expect(answer.status).toBe(400);
  expect(texts(answer).at(-1)).toContain('vsock');
  expect(texts(answer).at(-1)).toContain('cid');
});

test.each([
  ['another CID', 4, 'vsock2'],
  ['the same', 3, 'vsock'],
])('a second device with %s, in the dialect of 2020: 400 by name', async (_, cid, name) => {
  const { payload, ...rest } = guestConfig(vmm.folder);
  const seed = { ...rest, kernel: { path: payload.kernel }, cmdline: { args: '' } };
  const first = { cid: 3, sock: socket() };

  const answer = await vmm.put('vm.create', { ...seed, vsock: [first, { cid, sock: at(name) }] });

  expect(answer.status).toBe(400);
  expect(texts(answer)[3]).toBe('Too many virtio-vsock devices');
  expect(texts(answer)[4]).toContain(`vsock[1].cid is ${cid}`);
  expect(await vmm.put('vm.create', { ...seed, vsock: [first] })).toMatchObject({ status: 204 });
  expect(await vmm.put('vm.boot')).toMatchObject({ status: 204 });
  expect(existsSync(socket())).toBe(true);
});

test('the socket of the serial port: 409 at vm.create', async () => {
  const serial = { mode: 'Socket', socket: socket() };

  const answer = await vmm.put('vm.create', { ...withVsock({}), serial });

  expect(answer.status).toBe(409);
  expect(texts(answer)[4]).toContain(`serial.socket and vsock.socket is ${socket()}`);
});

describe('a path', () => {
  test.each<[string, () => void]>([
    ['a file', () => writeFileSync(socket(), 'theirs')],
    ['a folder', () => mkdirSync(socket())],
    ['a link to nowhere', () => symlinkSync(at('nowhere'), socket())],
  ])('where %s lies: 409 at vm.create', async (_, arrange) => {
    arrange();

    const answer = await create();

    expect(answer.status).toBe(409);
    expect(texts(answer)).toContain('Address already in use (os error 98)');
    expect(texts(answer).at(-1)).toContain(`vsock.socket is ${socket()}: something else is there`);
  });

  test('in a folder that is missing: 400 at vm.create', async () => {
    const answer = await create({ socket: at('missing/vsock') });

    expect(answer.status).toBe(400);
    expect(texts(answer)).toContain('No such file or directory (os error 2)');
    expect(texts(answer).at(-1)).toContain(`vsock.socket is ${at('missing/vsock')}: make the`);
  });

  test('where somebody listens: 409 at vm.boot, and the VM boots once it is free', async () => {
    expect(await create()).toMatchObject({ status: 204 });
    const server = createServer().listen(socket());
    await once(server, 'listening');

    const answer = await vmm.put('vm.boot');

    expect(answer.status).toBe(409);
    expect(texts(answer)).toContain('Address already in use (os error 98)');
    server.close();
    await once(server, 'close');
    expect(await vmm.put('vm.boot')).toMatchObject({ status: 204 });
  });
});

/** Resolves when the far end has closed, whatever it was told. */
async function ends(path: string, words: string): Promise<void> {
  const client = connect(path).on('error', () => {});
  client.write(words);
  await new Promise((resolve) => client.resume().once('close', resolve));
}

test('clients that come before the guest has a driver are turned away at once', async () => {
  expect(await create()).toMatchObject({ status: 204 });
  expect(await vmm.put('vm.boot')).toMatchObject({ status: 204 });

  const began = performance.now();
  await Promise.all(Array.from({ length: 50 }, () => ends(socket(), 'CONNECT 1024\n')));

  expect(performance.now() - began).toBeLessThan(2000);
  expect(await vmm.state()).toBe('Running');
});

test('the socket is there again after a reboot', async () => {
  expect(await create()).toMatchObject({ status: 204 });
  expect(await vmm.put('vm.boot')).toMatchObject({ status: 204 });

  for (let i = 0; i < 3; i++) expect(await vmm.put('vm.reboot')).toMatchObject({ status: 204 });

  await ends(socket(), 'CONNECT 1024\n');
  expect(await vmm.put('vm.shutdown')).toMatchObject({ status: 204 });
  expect(existsSync(socket())).toBe(false);
});

test.each(['SIGTERM', 'SIGKILL'] as const)(
  'what %s leaves keeps no next one from starting',
  async (signal) => {
    const first = await VmmProcess.start();
    const config = withVsock({ socket: socket() }, first);
    try {
      expect(await first.put('vm.create', config)).toMatchObject({ status: 204 });
      expect(await first.put('vm.boot')).toMatchObject({ status: 204 });
      first.child.kill(signal);
      await first.exitCode();

      expect(existsSync(socket())).toBe(signal === 'SIGKILL');
      expect(await create()).toMatchObject({ status: 204 });
      expect(await vmm.put('vm.boot')).toMatchObject({ status: 204 });
    } finally {
      await first[Symbol.asyncDispose]();
    }
  },
);
