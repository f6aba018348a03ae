/** The native sockets by themselves: what wire.test.ts does not reach. */
import { closeSync, mkdtempSync, readdirSync, readlinkSync, rmSync } from 'node:fs';
import { connect } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';
import { Worker } from 'node:worker_threads';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { native } from '../../../src/native.ts';
import type { FdSocket } from '../../../src/native-sockets.ts';

const ADDON = join(import.meta.dirname, '../../../build/Release/cloud_hypervisor.node');

let directory: string;
let path: string;

beforeEach(() => {
  directory = mkdtempSync(join(tmpdir(), 'fd-socket-'));
  path = join(directory, 's');
});

afterEach(() => rmSync(directory, { recursive: true }));

const ignore = () => {};

/** Listens at `path`, and keeps an open socket of the first client. */
const WORKER = `
const { parentPort, workerData: { addon, path } } = require('node:worker_threads');
const { FdListener, FdSocket } = require(addon);
const ignore = () => {};
const into = new Uint8Array(16);
new FdListener({ path, onStall: ignore, onConnection: (fd) => {
  new FdSocket(fd, { into, onData: ignore, onEnd: ignore, onDrain: ignore, onClose: ignore });
  parentPort.postMessage('connected');
} });
parentPort.postMessage('listening');
`;

function openSockets(): number {
  const links = readdirSync('/proc/self/fd').map((fd) => {
    try {
      return readlinkSync(`/proc/self/fd/${fd}`);
    } catch {
      return '';
    }
  });
  return links.filter((link) => link.startsWith('socket:')).length;
}

test('an environment that ends closes its listeners and sockets', async () => {
  const before = openSockets();
  const worker = new Worker(WORKER, { eval: true, workerData: { addon: ADDON, path } });
  const says = () => new Promise((resolve) => worker.once('message', resolve));
  await says();
  const client = connect(path);
  const closed = new Promise((resolve) => client.once('close', resolve));
  await says();

  await worker.terminate();

  client.resume();
  await closed;
  await expect.poll(openSockets).toBe(before);
});

test('what was closed is collected, and whoever heard of it', async () => {
  setFlagsFromString('--expose-gc');
  const collect = runInNewContext('gc') as () => void;
  const make = () => {
    const [ours, theirs] = native.unixStreams.pair();
    const owner: { ends?: object } = {};
    const closed = [ours, theirs].map(
      (fd) =>
        new Promise<void>((onClose) => {
          const hears = { onData: () => owner, onEnd: () => owner, onDrain: () => owner };
          const socket = new native.FdSocket(fd, { into: new Uint8Array(1), ...hears, onClose });
          owner.ends = { ...owner.ends, [fd]: socket };
          socket.destroy();
        }),
    );
    return { owner: new WeakRef(owner), closed };
  };
  const { owner, closed } = make();
  await Promise.all(closed);

  await expect
    .poll(() => {
      collect();
      return owner.deref() === undefined;
    })
    .toBe(true);
});

test('what is written while the peer does not read is kept, and its end reported once', async () => {
  let drained = 0;
  const listener = new native.FdListener({
    path,
    onStall: ignore,
    onConnection: (fd) => {
      const options = { into: new Uint8Array(1), onData: ignore, onEnd: ignore, onClose: ignore };
      const socket = new native.FdSocket(fd, { ...options, onDrain: () => drained++ });
      expect(socket.write('x'.repeat(1 << 20))).toBe(false);
      expect(socket.write(Buffer.from('end'))).toBe(false);
      socket.end();
    },
  });
  const client = connect({ path, allowHalfOpen: false });

  const parts: Buffer[] = await client.toArray();
  listener.close();

  const bytes = Buffer.concat(parts);
  expect(bytes).toHaveLength((1 << 20) + 3);
  expect(bytes.subarray(-4).toString()).toBe('xend');
  expect(drained).toBe(1);
});

test('a paused socket is not read, and loses nothing', async () => {
  const into = Buffer.alloc(4);
  const received: string[] = [];
  let resume = ignore;
  const listener = new native.FdListener({
    path,
    onStall: ignore,
    onConnection: (fd) => {
      const socket = new native.FdSocket(fd, {
        into,
        onData: (sizeBytes) => {
          received.push(into.toString('latin1', 0, sizeBytes));
          socket.pause();
        },
        onEnd: () => socket.end(),
        onDrain: ignore,
        onClose: ignore,
      });
      resume = () => socket.resume();
    },
  });
  const client = connect(path);
  client.end('abcdefgh');
  await expect.poll(() => received).toEqual(['abcd']);

  await new Promise((resolve) => setTimeout(resolve, 50));
  expect(received).toEqual(['abcd']);
  resume();
  await expect.poll(() => received).toEqual(['abcd', 'efgh']);

  listener.close();
  resume();
  await new Promise((resolve) => client.resume().once('close', resolve));
});

test('a descriptor that does not listen is refused', () => {
  const options = { onConnection: ignore, onStall: ignore };

  expect(() => new native.FdListener({ fd: 0, ...options })).toThrow(/^(ENOTSOCK|EINVAL): /);
  expect(() => new native.FdListener({ path: directory, ...options })).toThrow(/^EADDRINUSE: /);
});

test('a socket that is closed, and what its handlers know, can be collected', async () => {
  setFlagsFromString('--expose-gc');
  const collect = runInNewContext('gc') as () => void;
  const open = () => {
    const [fd, other] = native.unixStreams.pair();
    const owner = { closed: false, socket: undefined as FdSocket | undefined };
    const into = Buffer.alloc(1);
    const onClose = () => {
      owner.closed = true;
    };
    const events = { into, onData: ignore, onEnd: ignore, onDrain: ignore, onClose };
    owner.socket = new native.FdSocket(fd, events);
    closeSync(other);
    owner.socket.destroy();
    return new WeakRef(owner);
  };
  const owners = Array.from({ length: 10 }, open);

  await expect
    .poll(() => {
      collect();
      return owners.filter((owner) => owner.deref()).length;
    })
    .toBe(0);
});
