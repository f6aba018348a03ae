/**
 * What is wrong with PCI devices of other processes: each mistake, and each server that misbehaves,
 * has its status and a text that names field and value; the API answers meanwhile, and a good VM
 * boots.
 */
import { mkdirSync, rmSync, writeFileSync } from 'node:fs';
import { createServer } from 'node:net';
import { join } from 'node:path';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from 'vitest';
import { bareGuest } from '../support/bare-guest.ts';
import { VfioUserServer } from '../support/vfio-user-server.ts';
import { info, type Script, ScriptedServer } from '../unit/support/scripted-server.ts';
import { guestConfig } from './support/guests.ts';
import { type Answer, VmmProcess } from './support/vmm-process.ts';

let vmm: VmmProcess;
let server: ScriptedServer | undefined;

beforeAll(async () => {
  vmm = await VmmProcess.start();
});

afterAll(() => vmm[Symbol.asyncDispose]());

const socket = () => join(vmm.folder, 'server');
const texts = ({ body }: Answer) => body as string[];

function serve(script: Script = {}): void {
  server = new ScriptedServer({ path: socket(), script });
}

const device = (fields: object = {}) => ({ user_devices: [{ socket: socket(), ...fields }] });
const create = (fields: object = device()) =>
  vmm.put('vm.create', { ...guestConfig(vmm.folder), ...fields });

/** Whatever a test did to it. */
afterEach(async () => {
  server?.die();
  rmSync(socket(), { force: true, recursive: true });
  expect(await vmm.put('vm.delete')).toMatchObject({ status: 204 });
  serve();
  expect(await create()).toMatchObject({ status: 204 });
  expect(await vmm.put('vm.boot')).toMatchObject({ status: 204 });
  expect(await vmm.put('vm.delete')).toMatchObject({ status: 204 });
  server?.die();
  rmSync(socket(), { force: true });
});

const LONG = `/${'s'.repeat(107)}`;
const UNSHARED = { memory: { size: 64 << 20, shared: false } };

test.each<[string, () => object, string, string]>([
  ['an empty socket', () => device({ socket: '' }), 'path (0)', 'user_devices[0].socket is'],
  ['a long one', () => device({ socket: LONG }), 'path (108)', 'at most 107 bytes'],
  [
    'private RAM',
    () => ({ ...UNSHARED, ...device() }),
    'Using user devices requires using shared memory or huge pages',
    'user_devices[0] is given and memory.shared is false',
  ],
])('%s: 400 at vm.create', async (_, fields, text, remedy) => {
  const answer = await create(fields());

  expect(answer.status).toBe(400);
  expect(texts(answer)[2]).toBe('Failed to validate config');
  expect(texts(answer)[3]).toContain(text);
  expect(texts(answer)[4]).toContain(remedy);
});

test('two devices of one socket: 409 at vm.create', async () => {
  const answer = await create({ user_devices: [{ socket: socket() }, { socket: socket() }] });
  expect(answer.status).toBe(409);
  expect(texts(answer).join()).toContain('user_devices[1].socket');
});

describe('nobody is there: 400 at vm.boot, at once, and it boots when somebody is', () => {
  test.each<[string, () => void, string]>([
    ['the socket is missing', () => {}, 'No such file or directory (os error 2)'],
    ['it is a file', () => writeFileSync(socket(), ''), 'Connection refused (os error 111)'],
    ['it is a directory', () => mkdirSync(socket()), 'Connection refused (os error 111)'],
  ])('%s', async (_, make, text) => {
    make();
    expect(await create()).toMatchObject({ status: 204 });
    const answer = await vmm.put('vm.boot');

    expect(answer.status).toBe(400);
    expect(texts(answer).slice(2)).toEqual([
      ...['Error from device manager', 'Cannot create a vfio-user device'],
      ...['Connection to socket failed', text],
      `_vfio_user0.socket is ${socket()}: start the server that listens there, or name another path`,
    ]);
    rmSync(socket(), { force: true, recursive: true });
    serve();
    expect(await vmm.put('vm.boot')).toMatchObject({ status: 204 });
  });

  test('the socket is there, and nobody listens any more', async () => {
    serve();
    server?.die();
    expect(await create()).toMatchObject({ status: 204 });
    const answer = await vmm.put('vm.boot');
    expect(answer.status).toBe(400);
    expect(texts(answer)[5]).toBe('Connection refused (os error 111)');
  });
});

test('a server that has another client: 500 at vm.boot within seconds, and the API answers', async () => {
  const busy = createServer(() => {}).listen(socket());
  expect(await create()).toMatchObject({ status: 204 });

  const boot = vmm.put('vm.boot');
  const began = performance.now();
  expect((await vmm.get('vm.info')).body).toMatchObject({ state: 'Created' });
  expect(performance.now() - began).toBeLessThan(1000);
  const answer = await boot;
  busy.close();

  expect(answer.status).toBe(500);
  expect(texts(answer)[5]).toMatch(
    /vfio-user: (it is not ready|no answer to version) within 5000 ms/,
  );
  expect(texts(answer)[6]).toContain(`_vfio_user0.socket is ${socket()}: have a server`);
}, 15_000);

test('a server that lies: 500 at vm.boot and at an add, and says how', async () => {
  serve({ getInfo: () => info({ flags: 1 }) });
  expect(await create()).toMatchObject({ status: 204 });
  const answer = await vmm.put('vm.boot');
  expect(answer.status).toBe(500);
  expect(texts(answer)[5]).toBe('vfio-user: its device is no PCI device');

  expect(await vmm.put('vm.delete')).toMatchObject({ status: 204 });
  expect(await create({ memory: { size: 64 << 20, shared: true } })).toMatchObject({ status: 204 });
  expect(await vmm.put('vm.boot')).toMatchObject({ status: 204 });
  const added = await vmm.put('vm.add-user-device', { socket: socket() });
  expect(added.status).toBe(500);
  expect(texts(added).slice(1, 3)).toEqual([
    'The user device could not be added to the VM',
    'Error from device manager',
  ]);
  expect(((await vmm.get('vm.info')).body as { config: object }).config).not.toHaveProperty(
    'user_devices.0',
  );
});

test('a server that goes away keeps no verb waiting, and a reboot finds the next one', async () => {
  serve();
  expect(await create()).toMatchObject({ status: 204 });
  expect(await vmm.put('vm.boot')).toMatchObject({ status: 204 });
  server?.die();

  const began = performance.now();
  for (const verb of ['vm.pause', 'vm.resume'])
    expect(await vmm.put(verb)).toMatchObject({ status: 204 });
  serve();
  expect(await vmm.put('vm.reboot')).toMatchObject({ status: 204 });
  expect(performance.now() - began).toBeLessThan(4000);
  expect(server?.connections).toBe(1);
});

describe('plugged', () => {
  let process: VfioUserServer;

  beforeEach(async () => {
    process = await VfioUserServer.start(socket());
  });

  afterEach(() => process.kill());

  const MEMORY = { size: 64 << 20, shared: true, hotplug_size: 256 << 20 };
  const bootPlug = async () => {
    const config = guestConfig(vmm.folder);
    const cpus = { boot_vcpus: 1, max_vcpus: 1, max_phys_bits: 36 };
    const payload = { kernel: bareGuest('plug') };
    expect(await vmm.put('vm.create', { ...config, payload, cpus, memory: MEMORY })).toMatchObject({
      status: 204,
    });
    expect(await vmm.put('vm.boot')).toMatchObject({ status: 204 });
  };
  const tree = async () => ((await vmm.get('vm.info')).body as { device_tree: object }).device_tree;

  test('a device comes, follows the RAM, goes with its guest’s leave, and comes again', async () => {
    await bootPlug();
    for (let round = 0; round < 3; round++) {
      process.said.length = 0;
      const added = await vmm.put('vm.add-user-device', { socket: socket(), id: 'toy' });
      expect(added).toMatchObject({ status: 200, body: { id: 'toy', bdf: '0000:00:02.0' } });
      expect(process.said).toContain(`map 0 ${hex(64 << 20)}`);
      if (round === 0) {
        const resize = { desired_ram: 192 << 20 };
        expect(await vmm.put('vm.resize', resize)).toMatchObject({ status: 204 });
        expect(process.said.at(-1)).toMatch(/^map 0x[0-9a-f]+ 0x8000000$/);
      } else expect(process.said.filter((line) => line.startsWith('map'))).toHaveLength(2);
      expect(await vmm.put('vm.remove-device', { id: 'toy' })).toMatchObject({ status: 204 });
      await expect.poll(tree, { timeout: 5000 }).not.toHaveProperty('toy');
      await process.says('gone');
    }
  });
});

const hex = (value: number): string => `0x${value.toString(16)}`;
