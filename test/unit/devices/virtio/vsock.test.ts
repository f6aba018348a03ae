import { once } from 'node:events';
import { existsSync, linkSync, mkdtempSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { connect, createServer, type Server } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test, vi } from 'vitest';
import { normalise } from '../../../../src/api/dialects.ts';
import { Vsock, type VsockConfig } from '../../../../src/devices/virtio/vsock.ts';
import { errorChain, VmmError } from '../../../../src/errors.ts';
import { native, type Virtqueue } from '../../../../src/native.ts';
import type { VsockEngineOptions } from '../../../../src/native-vsock.ts';

const QUEUE = {} as Virtqueue;

let folder: string;
let socket: string;
const made: Vsock[] = [];
const warnings: string[] = [];

/** Stands for the data plane: notes what it is told. */
const engine = {
  options: undefined as VsockEngineOptions | undefined,
  start: vi.fn(),
  pause: vi.fn(async () => {}),
  resume: vi.fn(),
  stop: vi.fn(async () => {}),
};

beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'vsock-'));
  socket = join(folder, 'socket');
  const make = vi.fn(function make(options: VsockEngineOptions) {
    engine.options = options;
    return engine;
  });
  vi.spyOn(native, 'VsockEngine', 'get').mockReturnValue(make as never);
});

afterEach(async () => {
  for (const device of made.splice(0)) await device[Symbol.asyncDispose]();
  rmSync(folder, { recursive: true });
  warnings.length = 0;
  vi.restoreAllMocks();
  vi.resetAllMocks();
});

/** A device as vm.create would have it made. */
function vsockOf(cid = 3): Vsock {
  const [config] = normalise({ vsock: { cid, socket } }).config.vsock as [VsockConfig];
  const context = { id: '_vsock2', onWarning: (message: string) => void warnings.push(message) };
  const device = new Vsock(config, context);
  made.push(device);
  return device;
}

const needsReset = vi.fn();
const activate = (device: Vsock, queues: (Virtqueue | undefined)[] = [QUEUE, QUEUE, QUEUE]) =>
  device.activate({ features: 0n, queues, configChanged: () => {}, needsReset });

/** Resolves to whether a client is turned away, and not just left to wait. */
async function isTurnedAway(): Promise<boolean> {
  const client = connect(socket).resume();
  const late = new Promise((resolve) => setTimeout(resolve, 200));
  await Promise.race([once(client, 'end'), late]);
  client.destroy();
  return client.readableEnded;
}

function refusalOf(act: () => void): VmmError {
  try {
    act();
  } catch (error) {
    if (error instanceof VmmError) return error;
    throw error;
  }
  throw new Error('Not refused');
}

test('the driver finds three queues and its own CID', () => {
  const { queueSizes, config, features } = vsockOf(0xffff_fffe);

  expect(queueSizes).toEqual([256, 256, 256]);
  expect(config).toEqual(Uint8Array.of(0xfe, 0xff, 0xff, 0xff, 0, 0, 0, 0));
  expect(features).toBe((1n << 28n) | (1n << 29n));
});

test('while no driver runs it clients are turned away; while one does, the engine has them', async () => {
  const device = vsockOf();
  expect(await isTurnedAway()).toBe(true);

  activate(device);
  expect(engine.start).toHaveBeenCalledWith(QUEUE, QUEUE);
  expect(engine.options).toMatchObject({ id: '_vsock2', cid: 3, socketPath: socket });
  expect(engine.options?.listener).toBeGreaterThan(2);
  expect(await isTurnedAway()).toBe(false);

  await device.reset();
  expect(engine.stop).toHaveBeenCalledOnce();
  expect(await isTurnedAway()).toBe(true);
});

test('a driver that leaves a queue out has no data plane', async () => {
  const device = vsockOf();

  activate(device, [QUEUE, undefined, QUEUE]);

  expect(engine.start).not.toHaveBeenCalled();
  expect(await isTurnedAway()).toBe(true);
});

test('a data plane that does not start asks for a reset', async () => {
  const device = vsockOf();
  engine.start.mockImplementationOnce(() => {
    throw new Error('EAGAIN');
  });

  activate(device);

  expect(needsReset).toHaveBeenCalledWith('The data plane does not start: EAGAIN');
  expect(await isTurnedAway()).toBe(true);
});

test('pause and resume are passed on, warnings with a name', async () => {
  const device = vsockOf();
  await device.pause();
  device.resume();
  activate(device);

  await device.pause();
  device.resume();
  engine.options?.onWarning('Odd');

  expect([engine.pause, engine.resume].map(({ mock }) => mock.calls.length)).toEqual([1, 1]);
  expect(warnings).toEqual(['Vsock _vsock2: Odd']);
});

test('the socket goes with the device', async () => {
  const device = vsockOf();
  expect(existsSync(socket)).toBe(true);

  await device[Symbol.asyncDispose]();

  expect(existsSync(socket)).toBe(false);
  expect(process.listeners('exit').filter((it) => it.name.includes('unlink'))).toEqual([]);
});

test('what somebody else has put there since stays', async () => {
  const device = vsockOf();
  rmSync(socket);
  writeFileSync(socket, 'theirs');

  await device[Symbol.asyncDispose]();

  expect(existsSync(socket)).toBe(true);
});

async function listen(): Promise<Server> {
  const server = createServer().listen(socket);
  await once(server, 'listening');
  return server;
}

test('a socket that nobody listens on any more is replaced', async () => {
  const server = await listen();
  const kept = join(folder, 'kept');
  linkSync(socket, kept);
  server.close();
  await once(server, 'close');
  renameSync(kept, socket);

  Vsock.check({ socket });
  vsockOf();

  expect(await isTurnedAway()).toBe(true);
});

test('a socket that somebody listens on is refused at the boot, and stays', async () => {
  await using server = await listen();
  Vsock.check({ socket });

  const error = refusalOf(vsockOf);

  expect(error.kind).toBe('conflict');
  expect(errorChain(error)).toEqual([
    'Error from device manager',
    'Cannot create virtio-vsock backend',
    'Error binding to the host-side Unix socket',
    'Address already in use (os error 98)',
    `vsock.socket is ${socket}: something else is there; remove it, or name another path`,
  ]);
  expect(server.listening && existsSync(socket)).toBe(true);
});

test.each<[string, () => void, string, string]>([
  [
    'with a file in the way',
    () => writeFileSync(socket, 'theirs'),
    'conflict',
    'Address already in use (os error 98)',
  ],
  [
    'in a folder that is missing',
    () => {
      socket = join(folder, 'missing', 'socket');
    },
    'invalid-config',
    'No such file or directory (os error 2)',
  ],
  [
    'below a file',
    () => {
      writeFileSync(join(folder, 'file'), '');
      socket = join(folder, 'file', 'socket');
    },
    'invalid-config',
    'Not a directory (os error 20)',
  ],
])('a path %s is refused before a boot, and by it', (_, arrange, kind, text) => {
  arrange();

  for (const act of [() => Vsock.check({ socket }), vsockOf]) {
    const error = refusalOf(act);
    expect(error.kind).toBe(kind);
    expect(errorChain(error)[3]).toBe(text);
    expect(errorChain(error)[4]).toContain(`vsock.socket is ${socket}: `);
  }
});
