import { execFileSync, spawn } from 'node:child_process';
import { closeSync, readdirSync, readFileSync } from 'node:fs';
import { setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { type GuestMemory, type NetEngine, native, type Virtqueue } from '../../src/native.ts';
import type { NetEngineOptions, Tap } from '../../src/native-net.ts';
import { until } from '../support/micro-guest.ts';
import { RingDriver } from '../support/ring-driver.ts';

const RX_GPA = 0x4_0000;
const TX_GPA = 0x5_0000;
const BUFFER_BYTES = 2048;
const HEADER_BYTES = 12;
const ETHERTYPE_ARP = 0x0806;

/** Of the test alone: the taps are moved there, so nothing else of the host is on them. */
const NAMESPACE = `net-engine-${process.pid}`;

let tap: Tap;
let memory: GuestMemory;
let rx: RingDriver;
let tx: RingDriver;
let queues: Virtqueue[];
let engine: NetEngine;
let errors: string[];

const ip = (...args: string[]) => execFileSync('ip', args, { encoding: 'utf8' });

beforeEach(() => {
  ip('netns', 'add', NAMESPACE);
  tap = native.taps.open({ name: `ne${process.pid}`, queuePairs: 1 });
  ip('link', 'set', tap.name, 'netns', NAMESPACE);
  ip('-n', NAMESPACE, 'address', 'add', '192.0.2.1/24', 'dev', tap.name);
  // IPv6 would talk on its own.
  ip('netns', 'exec', NAMESPACE, 'sysctl', '-qw', 'net.ipv6.conf.all.disable_ipv6=1');
  ip('-n', NAMESPACE, 'link', 'set', tap.name, 'up');
  memory = new native.GuestMemory();
  memory.addRegion({ gpa: 0, sizeBytes: 1 << 20, shared: false, thp: false });
  rx = new RingDriver(memory, { ringsGpa: 0x1_0000 });
  tx = new RingDriver(memory, { ringsGpa: 0x2_0000 });
  queues = [rx.device(), tx.device()];
  errors = [];
});

afterEach(async () => {
  await engine.stop();
  for (const queue of queues) queue.close();
  rx.close();
  tx.close();
  await memory.close();
  for (const fd of tap.fds) closeSync(fd);
  ip('netns', 'delete', NAMESPACE);
});

const make = (options: Partial<NetEngineOptions> = {}) =>
  new native.NetEngine({
    id: '_net1',
    taps: tap.fds,
    mergeRxBuffers: true,
    frameBytesMax: 65_562,
    onTapError: (message) => void errors.push(message),
    ...options,
  });

const start = (options: Partial<NetEngineOptions> = {}) => {
  engine = make(options);
  engine.start(queues);
};

/** Sends a broadcast of 60 bytes by the chain at `head`. */
const send = (head: number) => {
  memory.write(TX_GPA, new Uint8Array(HEADER_BYTES + 60).fill(0xff, HEADER_BYTES));
  tx.send(head, [{ gpa: TX_GPA, sizeBytes: HEADER_BYTES + 60 }]);
};

/** Has the host look for a neighbour, by a frame to all. */
const broadcast = () => {
  spawn('ip', ['netns', 'exec', NAMESPACE, 'ping', '-c1', '-W1', '192.0.2.2'], { stdio: 'ignore' });
};

const threads = () =>
  readdirSync('/proc/self/task').map((tid) =>
    readFileSync(`/proc/self/task/${tid}/comm`, 'utf8').trim(),
  );

test('frames pass both ways on a thread that is named after the pair, and ends with stop', async () => {
  start();
  rx.send(0, [{ gpa: RX_GPA, sizeBytes: BUFFER_BYTES, write: true }]);

  send(0);
  await until(() => tx.irq.take());
  broadcast();
  await until(() => rx.irq.take());

  const frame = new Uint8Array(HEADER_BYTES + 42);
  memory.read(RX_GPA, frame);
  expect(new DataView(frame.buffer).getUint16(HEADER_BYTES + 12)).toBe(ETHERTYPE_ARP);
  expect(rx.used()).toEqual([{ head: 0, writtenBytes: frame.length }]);
  expect(engine.counters()).toEqual({ rx_bytes: 42, tx_bytes: 60, rx_frames: 1, tx_frames: 1 });
  expect(threads()).toContain('_net1_qp0');

  await engine.stop();
  expect(threads()).not.toContain('_net1_qp0');
});

test('what is sent during a pause leaves after it', async () => {
  start();
  await engine.pause();

  send(0);
  expect(engine.counters().tx_frames).toBe(0);
  engine.resume();
  await until(() => tx.irq.take());

  expect(tx.used()).toEqual([{ head: 0, writtenBytes: 0 }]);
});

test('a tap that is deleted is told of once, and what is sent then is dropped', async () => {
  start();
  rx.send(0, [{ gpa: RX_GPA, sizeBytes: BUFFER_BYTES, write: true }]);
  ip('-n', NAMESPACE, 'link', 'delete', tap.name);
  await until(() => errors.length > 0);

  for (const head of [0, 1]) {
    send(head);
    await until(() => tx.irq.take());
  }

  expect(errors).toEqual(['The tap of queue pair 0 is gone']);
  expect(engine.counters().tx_frames).toBe(0);
});

test('the device hears of a queue that the driver broke, and the other goes on', async () => {
  start();

  rx.send(0, [{ gpa: RX_GPA, sizeBytes: HEADER_BYTES - 1, write: true }]);
  await until(() => rx.broken.length > 0);
  send(0);
  await until(() => tx.irq.take());

  expect(rx.broken).toEqual(['receive buffer without room for a header']);
  expect(tx.broken).toEqual([]);
});

test('an engine that has stopped, and what its handler knows, can be collected', async () => {
  setFlagsFromString('--expose-gc');
  const collect = runInNewContext('gc') as () => void;
  const runOnce = async () => {
    const owner: { engine?: NetEngine } = {};
    owner.engine = make({ onTapError: () => owner });
    owner.engine.start(queues);
    await owner.engine.stop();
    return new WeakRef(owner);
  };
  engine = make();
  const owner = await runOnce();

  await until(() => {
    collect();
    return owner.deref() === undefined;
  });
});

test('what is of the wrong kind is refused', () => {
  start();

  expect(() => start({ frameBytesMax: 1 << 21 })).toThrow('frameBytesMax is out of range');
  expect(() => native.taps.setMtu(tap.name, -1)).toThrow('mtu is no unsigned integer');
});
