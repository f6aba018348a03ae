/** Devices whose queues a backend serves, by a backend that keeps to a script, on real sockets. */
import { mkdtempSync, readdirSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import fc from 'fast-check';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { openVhostUserBlock } from '../../../../src/devices/vhost-user/block.ts';
import type { VhostUserDevice } from '../../../../src/devices/vhost-user/device.ts';
import { openFs } from '../../../../src/devices/vhost-user/fs.ts';
import { openGeneric } from '../../../../src/devices/vhost-user/generic.ts';
import {
  encode,
  encodeU64,
  PROTOCOL,
  REQUEST,
} from '../../../../src/devices/vhost-user/protocol.ts';
import { F_EVENT_IDX, F_VERSION_1 } from '../../../../src/devices/virtio/device.ts';
import { errorChain } from '../../../../src/errors.ts';
import { type GuestMemory, native, type Virtqueue } from '../../../../src/native.ts';
import { RingDriver } from '../../../support/ring-driver.ts';
import { type BackendOptions, ScriptedBackend } from '../../support/scripted-backend.ts';

const BLOCK = PROTOCOL.mq | PROTOCOL.config | PROTOCOL.replyAck;
const LOSSLESS = BLOCK | PROTOCOL.inflight;
const F_RO = 1n << 5n;
const F_FLUSH = 1n << 9n;
const F_CONFIG_WCE = 1n << 11n;
const F_PACKED = 1n << 34n;
const CONFIG_CHANGED = 2;

let folder: string;
let path: string;
let memory: GuestMemory;
let ring: RingDriver;
let queue: Virtqueue;
let backend: ScriptedBackend;
let device: VhostUserDevice | undefined;
const warnings: string[] = [];
const told: string[] = [];

beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'vhost-'));
  path = join(folder, 's');
  memory = new native.GuestMemory();
  memory.addRegion({ gpa: 0, sizeBytes: 1 << 20, shared: true, thp: false });
  ring = new RingDriver(memory);
  queue = ring.device();
  warnings.length = told.length = 0;
});

afterEach(async () => {
  backend.die();
  await device?.[Symbol.asyncDispose]();
  device = undefined;
  queue.close();
  ring.close();
  await memory.close();
  rmSync(folder, { recursive: true });
});

const context = () => ({
  ...{ id: '_disk0', memory },
  onWarning: (message: string) => void warnings.push(message),
});
const DISK = { num_queues: 1, queue_size: 8, readonly: false };

function start(options: Partial<BackendOptions> = {}): ScriptedBackend {
  backend = new ScriptedBackend({
    ...{ path, protocol: BLOCK, features: F_FLUSH, config: new Uint8Array(60).fill(1) },
    ...options,
  });
  return backend;
}

async function openDisk(config: object = {}): Promise<VhostUserDevice> {
  device = await openVhostUserBlock({ ...DISK, vhost_socket: path, ...config }, context());
  return device;
}

const activate = (features = 0n, queues: (Virtqueue | undefined)[] = [queue]) =>
  device?.activate({
    ...{ features, queues },
    configChanged: () => void told.push('config'),
    needsReset: (reason) => void told.push(reason),
  });

const whyNot = async (opening: Promise<unknown>): Promise<string[]> =>
  opening.then(
    () => [],
    (error: unknown) => errorChain(error),
  );

const isUp = () => expect.poll(() => backend.last('setVringEnable')).toBeDefined();

test('a backend that serves hears of RAM that has come, before the guest does', async () => {
  start();
  const disk = await openDisk();
  activate();
  await isUp();
  memory.addRegion({ gpa: 1 << 30, sizeBytes: 1 << 20, shared: true, thp: false });

  await disk.memoryChanged();

  expect(backend.last('setMemTable')?.payload.readUInt32LE()).toBe(2);
});

test('a backend that does not serve yet hears of all RAM when it starts', async () => {
  start();
  const disk = await openDisk();
  memory.addRegion({ gpa: 1 << 30, sizeBytes: 1 << 20, shared: true, thp: false });

  await disk.memoryChanged();
  expect(backend.last('setMemTable')).toBeUndefined();
  activate();

  await isUp();
  expect(backend.last('setMemTable')?.payload.readUInt32LE()).toBe(2);
});

describe('features', () => {
  test('of a disk: what backend and protocol have, and nothing of the transport', async () => {
    start({ features: F_FLUSH | F_EVENT_IDX | F_PACKED | F_CONFIG_WCE });

    const { features } = await openDisk({ wce: false });

    expect(features).toBe(F_FLUSH | F_EVENT_IDX);
  });

  test('a disk is read-only by its config, and the backend does not hear of it', async () => {
    start();
    expect((await openDisk({ readonly: true })).features).toBe(F_FLUSH | F_RO);

    activate(F_FLUSH | F_RO);

    await isUp();
    expect(backend.last('setFeatures')?.payload.readBigUInt64LE()).toBe(
      F_FLUSH | F_VERSION_1 | (1n << 30n),
    );
  });
});

test('a disk shows as many queues as it has, whatever the backend has', async () => {
  start();

  const { config } = await openDisk({ num_queues: 2 });

  expect(Buffer.from(config).readUInt16LE(34)).toBe(2);
  expect(config[0]).toBe(1);
});

test('a file system shows its tag', async () => {
  start({ protocol: PROTOCOL.mq });
  const config = { tag: 'share', socket: path, num_queues: 1, queue_size: 8, pci_segment: 0 };

  device = await openFs(config, context());

  expect(Buffer.from(device.config.subarray(0, 6)).toString()).toBe('share\0');
  expect(Buffer.from(device.config).readUInt32LE(36)).toBe(1);
  expect(device.queueSizes).toEqual([8, 8]);
});

test('a generic device without a configuration space has none', async () => {
  start({ protocol: 0n });
  const config = { socket: path, queue_sizes: [8], device_type: 4, pci_segment: 0 };

  device = await openGeneric(config, context());

  expect(device).toMatchObject({ virtioId: 4, config: new Uint8Array(0), queueSizes: [8] });
});

test('a queue is told in the order of the protocol, from the start of its ring', async () => {
  start();
  await openDisk();
  ring.offer(0);

  activate();

  await isUp();
  expect(backend.names().slice(-9)).toEqual([
    ...['setFeatures', 'setMemTable', 'setVringNum', 'setVringBase', 'setVringAddr'],
    ...['setVringCall', 'setVringKick', 'setVringEnable', 'getFeatures'],
  ]);
  expect(backend.last('setVringBase')?.payload.readUInt32LE(4)).toBe(0);
  expect(backend.last('setMemTable')?.fdCount).toBe(1);
  expect(ring.kick.take()).toBe(true);
});

test('a reset stops the queues, and the next driver has new ones', async () => {
  start();
  await openDisk();
  activate();

  await device?.reset();

  expect(backend.names().at(-1)).toBe('getVringBase');
  queue.close();
  queue = ring.device();
  activate();
  await expect.poll(() => backend.names().filter((n) => n === 'setVringEnable')).toHaveLength(2);
});

test('a pause stops the queues where they are, and a resume goes on from there', async () => {
  start({ script: { getVringBase: () => Uint8Array.of(0, 0, 0, 0, 5, 0, 0, 0) } });
  await openDisk();
  activate();
  await isUp();
  memory.write(0x1_2002, Uint8Array.of(5, 0)); // the used index

  await device?.pause();
  device?.resume();

  await expect.poll(() => backend.last('setVringBase')?.payload.readUInt32LE(4)).toBe(5);
});

test('a pause waits for requests that the backend had taken', async () => {
  start({ script: { getVringBase: () => Uint8Array.of(0, 0, 0, 0, 1, 0, 0, 0) } });
  await openDisk();
  activate();
  await isUp();
  let isPaused = false;

  const paused = device?.pause().then(() => {
    isPaused = true;
  });
  await expect.poll(() => backend.last('getVringBase')).toBeDefined();
  await sleep(50);
  const before = isPaused;
  memory.write(0x1_2002, Uint8Array.of(1, 0));
  await paused;

  expect(before).toBe(false);
});

describe('a backend that is killed', () => {
  test('and can note what it has begun: its successor goes on with the note', async () => {
    start({ protocol: LOSSLESS });
    await openDisk();
    activate();
    await isUp();
    ring.offer(0);
    memory.write(0x1_2002, Uint8Array.of(7, 0));

    backend.die();
    start({ protocol: LOSSLESS });

    await isUp();
    expect(backend.names()).not.toContain('getInflightFd');
    expect(backend.last('setInflightFd')?.fdCount).toBe(1);
    expect(backend.last('setVringBase')?.payload.readUInt32LE(4)).toBe(7);
    await expect.poll(() => ring.irq.take()).toBe(true);
    expect(told).toEqual([]);
    expect(device?.counters()).toEqual({ reconnects: 1 });
    expect(warnings[0]).toContain(`Device _disk0: Its backend at ${path} is lost`);
  });

  test('with nothing under way: its successor goes on', async () => {
    start();
    await openDisk();
    activate();
    await isUp();

    backend.die();
    await expect.poll(() => warnings).toHaveLength(1);
    start();

    await isUp();
    expect(told).toEqual([]);
  });

  test('with a request under way that nobody has noted: the driver is asked for a reset', async () => {
    start();
    await openDisk();
    activate();
    await isUp();
    ring.offer(0);

    backend.die();
    await expect.poll(() => told).toEqual(['Requests are lost with its backend']);
    start();

    await expect.poll(() => device?.counters()).toEqual({ reconnects: 1 });
    expect(backend.names()).not.toContain('setVringEnable');
    await device?.reset();
    queue.close();
    queue = ring.device();
    activate();
    await isUp();
  });

  test('and comes back with less than the driver was offered: it is turned away', async () => {
    start();
    await openDisk();
    backend.die();
    start({ features: 0n });

    await expect.poll(() => backend.connections).toBeGreaterThan(1);

    expect(device?.counters()).toEqual({ reconnects: 0 });
  });
});

describe('a backend that', () => {
  const raw = (bytes: readonly number[]) => ({ raw: Uint8Array.from(bytes) });
  test.each<[string, BackendOptions['script'], string]>([
    ['answers with too few bytes', { getFeatures: () => new Uint8Array(4) }, '4 bytes in place'],
    ['answers with too many', { getFeatures: () => new Uint8Array(16) }, '16 bytes in place'],
    ['speaks another version', { getFeatures: () => raw(Array(12).fill(2)) }, 'version 2'],
    [
      'answers something else',
      { getFeatures: () => ({ raw: encode(REQUEST.getConfig, encodeU64(0), { isReply: true }) }) },
      'an answer to 24, never asked',
    ],
    [
      'asks where it should answer',
      { getFeatures: () => ({ raw: encode(CONFIG_CHANGED, new Uint8Array(0)) }) },
      'a request on the connection for answers',
    ],
    [
      'sends a descriptor along',
      {
        getFeatures: () => ({ raw: encode(1, encodeU64(0), { isReply: true }), fds: [0] }),
      },
      '1 descriptors with the answer to getFeatures',
    ],
    ['has no protocol features', { getFeatures: () => encodeU64(F_VERSION_1) }, 'too old'],
    ['knows no VIRTIO 1', { getFeatures: () => encodeU64(1n << 30n) }, 'knows no VIRTIO 1'],
    ['has too few queues', { getQueueNum: () => encodeU64(0) }, 'has 1 queues, the backend 0'],
    ['has no configuration', { getConfig: () => new Uint8Array(0) }, 'no 60 bytes of config'],
    ['has another part of it', { getConfig: () => new Uint8Array(72) }, 'another part'],
  ])('%s: the boot is refused, and says why', async (_, script = {}, text) => {
    start({ script });
    const fds = readdirSync('/proc/self/fd').length;

    const chain = await whyNot(openDisk());

    expect(chain.slice(0, 3)).toEqual([
      ...['Error from device manager', 'Cannot create vhost-user-blk device'],
      'The backend is of no use',
    ]);
    expect(chain[3]).toContain(text);
    expect(chain[4]).toContain(`_disk0.vhost_socket is ${path}: have a backend`);
    await expect.poll(() => readdirSync('/proc/self/fd').length).toBeLessThanOrEqual(fds);
  });

  test('refuses the table of RAM is given up, and the queues are not started', async () => {
    start({ script: { setMemTable: () => encodeU64(1) } });
    await openDisk();

    activate();

    await expect.poll(() => warnings[0]).toContain('the backend refuses setMemTable');
    expect(backend.names()).not.toContain('setVringNum');
  });

  test('speaks unasked while it serves is given up', async () => {
    start();
    await openDisk();
    activate();
    await isUp();

    backend.say(encode(REQUEST.getFeatures, encodeU64(0), { isReply: true }));

    await expect.poll(() => warnings[0]).toContain('an answer to 1, never asked');
  });

  test('says nothing when queues are to stop does not keep a reset waiting for long', async () => {
    start({ script: { getVringBase: () => 'silence' } });
    await openDisk();
    activate();
    await isUp();

    const began = Date.now();
    await device?.reset();

    expect(Date.now() - began).toBeLessThan(6000);
    expect(warnings[0]).toContain('no answer within 5000 ms');
  }, 10_000);
});

test('whatever bytes a backend says while it serves, it is understood or given up', async () => {
  const said = fc.uint8Array({ minLength: 1, maxLength: 64 });
  const message = fc
    .tuple(fc.integer({ min: 0, max: 40 }), fc.uint8Array({ maxLength: 24 }), fc.boolean())
    .map(([request, payload, isReply]) => encode(request, payload, { isReply }));
  await fc.assert(
    fc.asyncProperty(fc.oneof(said, message), async (bytes) => {
      start();
      await openDisk();
      activate();
      await isUp();

      backend.say(bytes);
      await Promise.all([device?.pause(), sleep(1)]);
      device?.resume();
      await device?.[Symbol.asyncDispose]();

      backend.die();
      queue.close();
      queue = ring.device();
    }),
    { numRuns: 20 },
  );
}, 60_000);

test('a change of the configuration reaches the driver, once for a burst', async () => {
  const config = new Uint8Array(60);
  start({ protocol: BLOCK | PROTOCOL.backendReq, config });
  await openDisk();
  activate();
  await isUp();

  config[0] = 9;
  for (let i = 0; i < 5; i++) backend.request(CONFIG_CHANGED);

  await expect.poll(() => told).toEqual(['config']);
  expect(device?.config[0]).toBe(9);
  expect(backend.names().filter((name) => name === 'getConfig').length).toBeLessThan(7);
});

test('what a driver writes of the configuration reaches the backend, and no more than it may', async () => {
  const config = new Uint8Array(60);
  start({ config, features: F_CONFIG_WCE });
  await openDisk();

  device?.writeConfig(0, 4, 7);
  device?.writeConfig(32, 1, 1);

  await expect
    .poll(() => backend.last('setConfig')?.payload.toString('hex'))
    .toBe('200000000100000000000000' + '01');
  expect(device?.config[0]).toBe(0);
});

test('nobody listens: the boot is refused after five seconds, and names the socket', async () => {
  start().die();

  const began = Date.now();
  const chain = await whyNot(openDisk());

  expect(Date.now() - began).toBeLessThan(6000);
  expect(chain[2]).toBe('Connection to socket failed');
  expect(chain[3]).toMatch(/can't connect to peer: Connection refused \(os error 111\)/);
  expect(chain[4]).toBe(
    `_disk0.vhost_socket is ${path}: start the backend that listens there, or name another path`,
  );
}, 10_000);

test('a backend that listens a little later is found', async () => {
  const opening = openDisk();
  await sleep(100);
  start();

  expect((await opening).features).toBe(F_FLUSH);
});
