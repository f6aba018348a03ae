/** Network cards of backends: what a driver is shown, the queues that are ours, who connects. */
import { existsSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, test, vi } from 'vitest';
import { VhostUserDevice } from '../../../../src/devices/vhost-user/device.ts';
import {
  openVhostUserNet,
  type VhostUserNetConfig,
} from '../../../../src/devices/vhost-user/net.ts';
import { PROTOCOL } from '../../../../src/devices/vhost-user/protocol.ts';
import type { Activation } from '../../../../src/devices/virtio/device.ts';
import { NET } from '../../../../src/devices/virtio/net-features.ts';
import { errorChain } from '../../../../src/errors.ts';
import { type GuestMemory, native, type Virtqueue } from '../../../../src/native.ts';
import { RingDriver } from '../../../support/ring-driver.ts';
import { type BackendOptions, ScriptedBackend } from '../../support/scripted-backend.ts';

const PROTOCOLS = PROTOCOL.mq | PROTOCOL.replyAck | PROTOCOL.netMtu;
const [LINK, MAX_PAIRS, MTU] = [6, 8, 10];
const CONFIG = {
  ...({ vhost_mode: 'Client' } as const),
  ...{ num_queues: 4, queue_size: 8, mac: '02:00:00:00:00:17' },
  ...{ offload_csum: true, offload_tso: true, offload_ufo: true },
};

let folder: string;
let path: string;
let memory: GuestMemory;
let backend: ScriptedBackend | undefined;
let device: VhostUserDevice | undefined;
let rings: RingDriver[];
let queues: Virtqueue[];
const told: string[] = [];

beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'vhost-'));
  path = join(folder, 's');
  memory = new native.GuestMemory();
  memory.addRegion({ gpa: 0, sizeBytes: 1 << 20, shared: true, thp: false });
  rings = Array.from(
    { length: 5 },
    (_, i) => new RingDriver(memory, { ringsGpa: 0x1_0000 * (i + 1) }),
  );
  queues = rings.map((ring) => ring.device());
  told.length = 0;
});

afterEach(async () => {
  backend?.die();
  await device?.[Symbol.asyncDispose]();
  device = undefined;
  for (const queue of queues) queue.close();
  for (const ring of rings) ring.close();
  await memory.close();
  rmSync(folder, { recursive: true });
});

const start = (options: Partial<BackendOptions> = {}): ScriptedBackend => {
  backend = new ScriptedBackend({
    ...{ path, protocol: PROTOCOLS, features: ~(NET.MAC | NET.CTRL_VQ) & 0xff_ffffn, ...options },
  });
  return backend;
};

const opening = (config: Partial<VhostUserNetConfig> = {}): Promise<VhostUserDevice> =>
  openVhostUserNet(
    { ...CONFIG, vhost_socket: path, ...config },
    { id: '_net0', memory, onWarning: (message) => void told.push(message) },
  );

async function open(config: Partial<VhostUserNetConfig> = {}): Promise<VhostUserDevice> {
  device = await opening(config);
  return device;
}

const activate = (features: bigint) =>
  device?.activate({
    ...{ features, queues },
    configChanged: () => void told.push('config'),
    needsReset: (reason) => void told.push(reason),
  });

/** How the backend was told of each queue, last. */
const enabled = () =>
  Object.fromEntries(
    (backend?.heard ?? [])
      .filter(({ name }) => name === 'setVringEnable')
      .map(({ payload }) => [payload.readUInt32LE(0), payload.readUInt32LE(4)]),
  );

/** What the control queue answers: 0 is yes. */
async function command(ring: RingDriver, ...bytes: number[]): Promise<number | undefined> {
  const [ask, answer] = [0x9000, 0xa000];
  memory.write(ask, Uint8Array.from(bytes));
  ring.send(0, [
    { gpa: ask, sizeBytes: bytes.length },
    { gpa: answer, sizeBytes: 1, write: true },
  ]);
  while (ring.used().length === 0) await new Promise((resolve) => setImmediate(resolve));
  const status = new Uint8Array(1);
  memory.read(answer, status);
  return status[0];
}

describe('a driver is shown', () => {
  test('what the config says of the card, and what the backend can', async () => {
    start({ features: NET.CSUM | NET.MRG_RXBUF | NET.GUEST_ANNOUNCE | NET.CTRL_GUEST_OFFLOADS });

    const { config, features, queueSizes } = await open({ mtu: 1400 });

    expect(Buffer.from(config).toString('hex')).toBe('02000000001701000200' + '7805');
    expect(features).toBe(
      NET.CSUM | NET.MRG_RXBUF | NET.MAC | NET.STATUS | NET.CTRL_VQ | NET.MQ | NET.MTU,
    );
    expect(queueSizes).toEqual([8, 8, 8, 8, 8]);
  });

  test('no MTU where none is given, and no offload that is off', async () => {
    start();
    const { config, features } = await open({ offload_tso: false, offload_ufo: false });
    expect(Buffer.from(config).readUInt16LE(MTU)).toBe(0);
    expect(features & (NET.MTU | NET.HOST_TSO4 | NET.GUEST_UFO)).toBe(0n);
    expect(Buffer.from(config).readUInt16LE(MAX_PAIRS)).toBe(2);
  });
});

test('the MTU is told to a backend that wants it', async () => {
  start();
  await open({ mtu: 9000 });
  activate(NET.MTU);
  await expect.poll(() => backend?.last('netSetMtu')?.payload.readUInt32LE()).toBe(9000);
});

test('without MQ the third queue is the control queue', async () => {
  start();
  await open();
  activate(NET.CTRL_VQ);

  await expect.poll(enabled).toEqual({ 0: 1, 1: 1 });
  expect(await command(rings[2] as RingDriver, 0, 0, 1)).toBe(0);
});

test('with MQ, pairs are enabled as the driver asks', async () => {
  start();
  await open();
  activate(NET.CTRL_VQ | NET.MQ);
  const control = rings[4] as RingDriver;

  await expect.poll(enabled).toEqual({ 0: 1, 1: 1, 2: 0, 3: 0 });
  expect(await command(control, 4, 0, 2, 0)).toBe(0);
  await expect.poll(enabled).toEqual({ 0: 1, 1: 1, 2: 1, 3: 1 });
  expect(await command(control, 4, 0, 3, 0)).toBe(1);
  expect(await command(control, 4, 0, 0, 0)).toBe(1);
  expect(await command(control, 4, 0, 1, 0)).toBe(0);
  await expect.poll(enabled).toEqual({ 0: 1, 1: 1, 2: 0, 3: 0 });
});

test('a driver that changes its mind all the time costs a conversation at a time', async () => {
  start({ script: { setVringEnable: () => 'silence' } });
  await open();
  activate(NET.CTRL_VQ | NET.MQ);
  await expect.poll(() => backend?.last('setVringEnable')).toBeDefined();
  for (let i = 0; i < 1000; i++)
    expect(await command(rings[4] as RingDriver, 4, 0, 1 + (i % 2), 0)).toBe(0);
  expect(backend?.names().filter((name) => name === 'setVringEnable')).toHaveLength(1);
});

test('a driver that changes its mind leaves nothing behind, however slow the backend', async () => {
  start({ script: { setVringEnable: () => 'silence' } });
  let enable = (_count: number) => {};
  const local = {
    ...{ shared: () => 4, enabled: 2 },
    serve: (_: Activation, give: typeof enable) => {
      enable = give;
    },
  };
  device = await VhostUserDevice.open(
    {
      ...{ socket: path, field: '_net0.vhost_socket', kind: 'card', virtioId: 1, local },
      ...{ queueSizes: [8, 8, 8, 8], features: 0n, config: new Uint8Array(12), queuesNeeded: 2 },
    },
    { id: '_net0', memory, onWarning: () => {} },
  );
  activate(0n);
  await expect.poll(() => backend?.last('setVringEnable')).toBeDefined();

  const before = process.memoryUsage().heapUsed;
  for (let i = 0; i < 100_000; i++) enable(2 + 2 * (i % 2));

  expect(process.memoryUsage().heapUsed - before).toBeLessThan(8 << 20);
});

test('the link is down while the backend is away, and it goes on where it was', async () => {
  start();
  const { config } = await open();
  activate(NET.STATUS);
  await expect.poll(enabled).toEqual({ 0: 1, 1: 1 });
  rings[0]?.send(0, [{ gpa: 0x9000, sizeBytes: 64, write: true }]);

  backend?.die();
  await expect.poll(() => told.includes('config')).toBe(true);
  expect(config[LINK]).toBe(0);
  start();

  await expect.poll(enabled).toEqual({ 0: 1, 1: 1 });
  expect(config[LINK]).toBe(1);
  expect(told.filter((what) => !what.includes('backend'))).toEqual(['config', 'config']);
});

const whyNot = (opening: Promise<unknown>): Promise<string[]> =>
  opening.then(
    () => [],
    (error: unknown) => errorChain(error),
  );

test('a backend with too few pairs is refused', async () => {
  start({ protocol: PROTOCOL.replyAck });
  expect((await whyNot(opening())).at(-2)).toBe(
    'vhost-user: the device has 2 queues, the backend 1',
  );
});

describe('as the server', () => {
  const SERVER = { vhost_mode: 'Server' } as const;

  test('a backend comes to us, and may come again', async () => {
    const promise = open(SERVER);
    start({ connects: true });
    await promise;
    activate(NET.STATUS);
    await expect.poll(enabled).toEqual({ 0: 1, 1: 1 });

    backend?.die();
    await expect.poll(() => device?.config[LINK]).toBe(0);
    start({ connects: true });

    await expect.poll(enabled).toEqual({ 0: 1, 1: 1 });
    expect(device?.counters()).toEqual({ reconnects: 1 });
    await device?.[Symbol.asyncDispose]();
    expect(existsSync(path)).toBe(false);
  });

  test('a second backend waits until the first is gone', async () => {
    const promise = open(SERVER);
    const first = start({ connects: true });
    await promise;
    const second = start({ connects: true });
    activate(0n);
    await expect.poll(() => first.last('setVringEnable')).toBeDefined();
    expect(second.heard).toEqual([]);

    first.die();

    await expect.poll(() => second.last('setVringEnable')).toBeDefined();
  });

  test('nobody comes for a minute: it is given up', async () => {
    vi.useFakeTimers({ toFake: ['setTimeout', 'clearTimeout', 'Date'] });
    try {
      const reason = whyNot(opening(SERVER));
      await vi.advanceTimersByTimeAsync(60_000);
      expect((await reason).slice(-3)).toEqual([
        'Connection to socket failed',
        "vhost-user: can't connect to peer: nobody has connected",
        `_net0.vhost_socket is ${path}: start the backend that connects there, or name another path`,
      ]);
    } finally {
      vi.useRealTimers();
    }
    expect(existsSync(path)).toBe(false);
  });

  test('a path where somebody listens, or a file lies, is refused', async () => {
    const server = createServer().listen(path);
    await new Promise((resolve) => server.once('listening', resolve));
    expect((await whyNot(opening(SERVER))).slice(-2)).toEqual([
      expect.stringContaining('Address already in use'),
      `_net0.vhost_socket is ${path}: have a backend connect there that serves such a device`,
    ]);
    server.close();
    await new Promise((resolve) => server.once('close', resolve));
    writeFileSync(path, '');
    expect(await whyNot(opening(SERVER))).not.toEqual([]);
    expect(existsSync(path)).toBe(true);
  });
});
