import { once } from 'node:events';
import { mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { connect, createServer, type Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { type GuestMemory, native, type Virtqueue, type VsockEngine } from '../../src/native.ts';
import type { FdListener } from '../../src/native-sockets.ts';
import { until } from '../support/micro-guest.ts';
import { RingDriver } from '../support/ring-driver.ts';

const HEADER_BYTES = 44;
const RX_GPA = 0x4_0000;
const RX_BYTES = 4096;
const TX_GPA = 0x5_0000;
const GUEST_CID = 3;
const HOST_CID = 2;
const WINDOW_BYTES = 65_536;

// Operations, VIRTIO 1.2 §5.10.6.
const [REQUEST, RESPONSE, RESET, , PAYLOAD] = [1, 2, 3, 4, 5];

let folder: string;
let path: string;
let memory: GuestMemory;
let rx: RingDriver;
let tx: RingDriver;
let queues: [Virtqueue, Virtqueue];
let listener: FdListener;
let engine: VsockEngine;
let warnings: string[];
let client: Socket;

beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'vsock-engine-'));
  path = join(folder, 'socket');
  memory = new native.GuestMemory();
  memory.addRegion({ gpa: 0, sizeBytes: 1 << 20, shared: false, thp: false });
  rx = new RingDriver(memory, { ringsGpa: 0x1_0000 });
  tx = new RingDriver(memory, { ringsGpa: 0x2_0000 });
  queues = [rx.device(), tx.device()];
  listener = new native.FdListener({ path, onConnection: () => {}, onStall: () => {} });
  listener.pause();
  warnings = [];
  engine = new native.VsockEngine({
    ...{ id: '_vsock0', cid: GUEST_CID, listener: listener.fd, socketPath: path },
    ...{ greetingTimeoutMs: 60_000, onWarning: (message) => void warnings.push(message) },
  });
  engine.start(...queues);
  client = connect(path);
});

afterEach(async () => {
  client.destroy();
  await engine.stop();
  for (const queue of queues) queue.close();
  for (const driver of [rx, tx]) driver.close();
  listener.close();
  await memory.close();
  rmSync(folder, { recursive: true });
});

interface Packet {
  op: number;
  guestPort: number;
  hostPort: number;
  payload?: string;
}

function send({ op, guestPort, hostPort, payload = '' }: Packet): void {
  const header = Buffer.alloc(HEADER_BYTES);
  header.writeBigUInt64LE(BigInt(GUEST_CID), 0);
  header.writeBigUInt64LE(BigInt(HOST_CID), 8);
  header.writeUInt32LE(guestPort, 16);
  header.writeUInt32LE(hostPort, 20);
  header.writeUInt32LE(payload.length, 24);
  header.writeUInt16LE(1, 28); // a stream
  header.writeUInt16LE(op, 30);
  header.writeUInt32LE(WINDOW_BYTES, 36);
  const bytes = Buffer.concat([header, Buffer.from(payload)]);
  memory.write(TX_GPA, bytes);
  tx.send(0, [{ gpa: TX_GPA, sizeBytes: bytes.length }]);
}

/** Offers a buffer, and resolves with what comes in there. */
async function receive(): Promise<Packet> {
  rx.send(0, [{ gpa: RX_GPA, sizeBytes: RX_BYTES, write: true }]);
  let used: ReturnType<RingDriver['used']> = [];
  await until(() => {
    used = rx.used();
    return used.length > 0;
  });
  const bytes = Buffer.alloc(used[0]?.writtenBytes ?? 0);
  memory.read(RX_GPA, bytes);
  return {
    op: bytes.readUInt16LE(30),
    guestPort: bytes.readUInt32LE(20),
    hostPort: bytes.readUInt32LE(16),
    payload: bytes.subarray(HEADER_BYTES).toString(),
  };
}

const text = async (socket: Socket): Promise<string> =>
  String((await once(socket, 'data')) as unknown as [Buffer]);

/** The client is connected to port 52 of the guest. */
async function open(): Promise<Packet> {
  client.write('CONNECT 52\n');
  const { hostPort } = await receive();
  const ports = { guestPort: 52, hostPort };
  send({ op: RESPONSE, ...ports });
  expect(await text(client)).toBe(`OK ${hostPort}\n`);
  return { op: PAYLOAD, ...ports };
}

const threads = () =>
  readdirSync('/proc/self/task').map((tid) =>
    readFileSync(`/proc/self/task/${tid}/comm`, 'utf8').trim(),
  );

test('bytes go both ways, by a thread that is named after the device and ends with stop', async () => {
  const stream = await open();

  send({ ...stream, payload: 'to the host' });
  expect(await text(client)).toBe('to the host');
  client.write('to the guest');
  expect(await receive()).toEqual({ ...stream, payload: 'to the guest' });
  expect(threads()).toContain('_vsock0');

  await engine.stop();
  expect(threads()).not.toContain('_vsock0');
});

test('a stop ends every stream', async () => {
  await open();
  const ended = once(client.resume(), 'close');

  await engine.stop();

  await ended;
});

test('a stream survives a pause, and what comes meanwhile follows it', async () => {
  const stream = await open();
  await engine.pause();
  client.write('late');
  send({ ...stream, payload: 'later' });
  expect(tx.used()).toHaveLength(1); // its answer to the request

  engine.resume();

  expect(await text(client)).toBe('later');
  expect(await receive()).toMatchObject({ payload: 'late' });
});

test('the guest reaches what listens at the path of its port', async () => {
  const server = createServer((socket) => void socket.end('welcome')).listen(`${path}_7`);
  await once(server, 'listening');

  send({ op: REQUEST, guestPort: 9, hostPort: 7 });

  expect(await receive()).toMatchObject({ op: RESPONSE, guestPort: 9, hostPort: 7 });
  expect(await receive()).toMatchObject({ op: PAYLOAD, payload: 'welcome' });
  server.close();
});

test('a path that is too long for the port is said, and the guest is refused', async () => {
  await engine.stop();
  for (const queue of queues) queue.close();
  queues = [rx.device(), tx.device()];
  const long = join(folder, 'x'.repeat(105 - folder.length));
  engine = new native.VsockEngine({
    ...{ id: '_vsock0', cid: GUEST_CID, listener: listener.fd, socketPath: long },
    ...{ greetingTimeoutMs: 60_000, onWarning: (message) => void warnings.push(message) },
  });
  engine.start(...queues);

  send({ op: REQUEST, guestPort: 9, hostPort: 1024 });
  await until(() => warnings.length > 0);

  expect(warnings).toEqual(['Cannot connect to port 1024 of the host: File name too long']);
  expect(await receive()).toMatchObject({ op: RESET, guestPort: 9, hostPort: 1024 });
});

test('the device hears of a queue that the driver broke, and stop still ends', async () => {
  tx.offer(tx.size);
  tx.kick.signal();
  await until(() => tx.broken.length > 0);
  await engine.stop();

  expect(tx.broken).toEqual(['head beyond the table']);
});
