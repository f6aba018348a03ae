/**
 * What is wrong with devices of other processes: each mistake, and each backend that misbehaves,
 * has its status and a text that names field and value; the API answers meanwhile, and a good VM
 * boots.
 */
import { rmSync, writeFileSync } from 'node:fs';
import { createServer } from 'node:net';
import { join } from 'node:path';
import { afterAll, afterEach, beforeAll, describe, expect, test } from 'vitest';
import { encodeU64, PROTOCOL } from '../../src/devices/vhost-user/protocol.ts';
import { type Script, ScriptedBackend } from '../unit/support/scripted-backend.ts';
import { guestConfig } from './support/guests.ts';
import { type Answer, VmmProcess } from './support/vmm-process.ts';

let vmm: VmmProcess;
let backend: ScriptedBackend | undefined;

beforeAll(async () => {
  vmm = await VmmProcess.start();
});

afterAll(() => vmm[Symbol.asyncDispose]());

const socket = () => join(vmm.folder, 'backend');
const texts = ({ body }: Answer) => body as string[];

const create = (devices: object) =>
  vmm.put('vm.create', { ...guestConfig(vmm.folder), ...devices });
const disk = (fields: object = {}) => ({
  disks: [{ vhost_user: true, vhost_socket: socket(), ...fields }],
});
const card = (fields: object = {}) => ({
  net: [{ vhost_user: true, vhost_socket: socket(), ...fields }],
});
const share = (fields: object = {}) => ({ fs: [{ tag: 't', socket: socket(), ...fields }] });
const generic = (fields: object = {}) => ({
  generic_vhost_user: [{ socket: socket(), queue_sizes: [64], device_type: 4, ...fields }],
});

function serve(script: Script = {}): ScriptedBackend {
  backend = new ScriptedBackend({
    ...{ path: socket(), protocol: PROTOCOL.mq | PROTOCOL.config | PROTOCOL.replyAck },
    ...{ config: new Uint8Array(256), script },
  });
  return backend;
}

/** Whatever a test did to it. */
afterEach(async () => {
  backend?.die();
  rmSync(socket(), { force: true });
  expect(await vmm.put('vm.delete')).toMatchObject({ status: 204 });
  serve();
  expect(await create(disk())).toMatchObject({ status: 204 });
  expect(await vmm.put('vm.boot')).toMatchObject({ status: 204 });
  expect(await vmm.put('vm.delete')).toMatchObject({ status: 204 });
  backend?.die();
  rmSync(socket(), { force: true });
});

const LONG = `/${'s'.repeat(107)}`;
const UNSHARED = { memory: { size: 64 << 20, shared: false } };

test.each<[string, () => object, string, string]>([
  [
    'a disk with an empty socket',
    () => disk({ vhost_socket: '' }),
    'path (0)',
    'disks[0].vhost_so',
  ],
  ['a disk with a long one', () => disk({ vhost_socket: LONG }), 'path (108)', 'at most 107 bytes'],
  ['a card with a long one', () => card({ vhost_socket: LONG }), '(108)', 'net[0].vhost_socket is'],
  ['a share with a long one', () => share({ socket: LONG }), 'path (108)', 'fs[0].socket is /ss'],
  ['a share without a queue', () => share({ num_queues: 0 }), 'virtio-fs (0)', 'num_queues is 0'],
  ['a share with 256', () => share({ num_queues: 256 }), 'virtio-fs (256)', 'give 1 to 255'],
  [
    'a device with a long socket',
    () => generic({ socket: LONG }),
    '(108)',
    'generic_vhost_user[0]',
  ],
  ['a device without queues', () => generic({ queue_sizes: [] }), 'count (0)', 'names 0 queues'],
  ['an odd queue', () => generic({ queue_sizes: [64, 3] }), '32768: 3', 'queue_sizes[1] is 3'],
  ['a device of type 0', () => generic({ device_type: 0 }), 'of type 0', 'device_type is 0'],
  ['a device of type 64', () => generic({ device_type: 64 }), 'of type 64', 'give 1 to 63'],
  [
    'a disk and private RAM',
    () => ({ ...UNSHARED, ...disk() }),
    'shared memory',
    'disks[0] is given',
  ],
  ['a card and private RAM', () => ({ ...UNSHARED, ...card() }), 'shared', 'net[0] is given'],
  [
    'a share and private RAM',
    () => ({ ...UNSHARED, ...share() }),
    'shared',
    'memory.shared is false',
  ],
])('%s: 400 at vm.create', async (_, devices, text, remedy) => {
  const answer = await create(devices());

  expect(answer.status).toBe(400);
  expect(texts(answer)[2]).toBe('Failed to validate config');
  expect(texts(answer)[3]).toContain(text);
  expect(texts(answer)[4]).toContain(remedy);
});

test('a disk without a socket is ours in the dialect of 2020, and 400 at vm.create in ours', async () => {
  const image = join(vmm.folder, 'image');
  writeFileSync(image, Buffer.alloc(1 << 20));
  const { payload, ...rest } = guestConfig(vmm.folder);
  const own = { disks: [{ path: image, vhost_user: true }] };

  const answer = await create(own);

  expect(answer.status).toBe(400);
  expect(texts(answer)[3]).toBe('No socket provided when using vhost-user');
  expect(texts(answer)[4]).toContain("disks[0].vhost_user is true: name the backend's socket");
  const seed = { ...rest, ...own, kernel: { path: payload.kernel }, cmdline: { args: '' } };
  expect(await vmm.put('vm.create', seed)).toMatchObject({ status: 204 });
  expect(await vmm.put('vm.boot')).toMatchObject({ status: 204 });
  const disks = [{ path: image, vhost_user: false, vhost_socket: null }];
  expect((await vmm.get('vm.info')).body).toMatchObject({ config: { disks } });
});

test('RAM is shared by itself where a backend needs it, and vm.info says so', async () => {
  serve();
  expect(await create(share())).toMatchObject({ status: 204 });

  expect((await vmm.get('vm.info')).body).toMatchObject({ config: { memory: { shared: true } } });
  expect(await vmm.put('vm.boot')).toMatchObject({ status: 204 });
});

test('nobody listens: 400 at vm.boot, the API answers meanwhile, and it boots when somebody does', async () => {
  expect(await create(disk())).toMatchObject({ status: 204 });

  const boot = vmm.put('vm.boot');
  const began = performance.now();
  expect((await vmm.get('vm.info')).body).toMatchObject({ state: 'Created' });
  expect(performance.now() - began).toBeLessThan(1000);
  const answer = await boot;

  expect(answer.status).toBe(400);
  expect(texts(answer).slice(2, 6)).toEqual([
    ...['Error from device manager', 'Cannot create vhost-user-blk device'],
    'Connection to socket failed',
    "vhost-user: can't connect to peer: No such file or directory (os error 2)",
  ]);
  expect(texts(answer)[6]).toContain(`_disk0.vhost_socket is ${socket()}: start the backend`);
  serve();
  expect(await vmm.put('vm.boot')).toMatchObject({ status: 204 });
});

test('a backend that says nothing: 500 at vm.boot within seconds, and the API answers', async () => {
  const server = createServer(() => {}).listen(socket());
  expect(await create(share())).toMatchObject({ status: 204 });

  const boot = vmm.put('vm.boot');
  expect((await vmm.get('vmm.ping')).status).toBe(200);
  const answer = await boot;
  server.close();

  expect(answer.status).toBe(500);
  expect(texts(answer)[5]).toBe('vhost-user: no answer within 5000 ms');
  expect(texts(answer)[6]).toContain(`_fs0.socket is ${socket()}: have a backend`);
});

test('a backend that lies: 500 at vm.boot, and says how', async () => {
  serve({ getFeatures: () => encodeU64(1n << 30n) });
  expect(await create(generic())).toMatchObject({ status: 204 });

  const answer = await vmm.put('vm.boot');

  expect(answer.status).toBe(500);
  expect(texts(answer)[5]).toBe('vhost-user: the backend knows no VIRTIO 1');
});

test('a card of a backend boots', async () => {
  serve();
  expect(await create(card())).toMatchObject({ status: 204 });
  expect(await vmm.put('vm.boot')).toMatchObject({ status: 204 });
  expect((await vmm.get('vm.counters')).body).toMatchObject({ _net0: { reconnects: 0 } });
});

describe('a backend that goes away while the VM runs', () => {
  test('is looked for, and found again: the VM stays Running', async () => {
    const first = serve();
    expect(await create(disk())).toMatchObject({ status: 204 });
    expect(await vmm.put('vm.boot')).toMatchObject({ status: 204 });

    first.die();
    serve();

    const counters = async () => (await vmm.get('vm.counters')).body;
    await expect.poll(counters).toMatchObject({ _disk0: { reconnects: 1 } });
    expect(await vmm.state()).toBe('Running');
  });

  test('and does not come back keeps no verb waiting', async () => {
    serve();
    expect(await create(disk())).toMatchObject({ status: 204 });
    expect(await vmm.put('vm.boot')).toMatchObject({ status: 204 });
    backend?.die();

    for (const verb of ['vm.pause', 'vm.resume', 'vm.shutdown'])
      expect(await vmm.put(verb)).toMatchObject({ status: 204 });
  });
});
