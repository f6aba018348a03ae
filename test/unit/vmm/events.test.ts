import { execFileSync } from 'node:child_process';
import {
  closeSync,
  constants,
  mkdtempSync,
  openSync,
  readFileSync,
  readSync,
  rmSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { native } from '../../../src/native.ts';
import { EventMonitor, type VmmEvent } from '../../../src/vmm/events.ts';

const { O_NONBLOCK, O_RDONLY } = constants;
const PAUSED: VmmEvent = { source: 'vm', event: 'paused' };
const SOON = { timeout: 5000, interval: 5 };

let folder: string;
let path: string;
let lost: string[];

beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'events-'));
  path = join(folder, 'events');
  lost = [];
});

afterEach(() => rmSync(folder, { recursive: true }));

const monitor = (where: { path: string } | { fd: number }) =>
  new EventMonitor({ where, onLost: (reason) => lost.push(reason) });

/** The events of a stream, each as it ends with an empty line. */
const events = (text: string): VmmEvent[] =>
  text
    .split('\n\n')
    .slice(0, -1)
    .map((one) => JSON.parse(one));

test('an event is pretty-printed, with an empty line behind it and the time since the start', () => {
  const { tell } = monitor({ path });
  const before = performance.now() / 1000;

  tell({ source: 'vmm', event: 'starting' });
  tell({ source: 'virtio-device', event: 'activated', properties: { id: '_disk0' } });

  const text = readFileSync(path, 'utf8');
  const framed = text.replace(/("secs"|"nanos"): \d+/g, '$1: N');
  const timestamp = '{\n  "timestamp": {\n    "secs": N,\n    "nanos": N\n  },\n';
  expect(framed).toBe(
    `${timestamp}  "source": "vmm",\n  "event": "starting",\n  "properties": null\n}\n\n` +
      `${timestamp}  "source": "virtio-device",\n  "event": "activated",\n` +
      '  "properties": {\n    "id": "_disk0"\n  }\n}\n\n',
  );
  const [first] = events(text) as unknown as { timestamp: { secs: number; nanos: number } }[];
  const at = (first?.timestamp.secs ?? 0) + (first?.timestamp.nanos ?? 0) / 1e9;
  expect(at).toBeGreaterThanOrEqual(before - 1e-6);
  expect(at).toBeLessThanOrEqual(performance.now() / 1000);
});

test('a file that is there is truncated', () => {
  writeFileSync(path, 'x'.repeat(1000));

  monitor({ path }).tell(PAUSED);

  expect(events(readFileSync(path, 'utf8'))).toMatchObject([PAUSED]);
});

test('a file that was inherited open is written where it stands', () => {
  writeFileSync(path, '');
  const fd = openSync(path, 'w');

  monitor({ fd }).tell(PAUSED);

  expect(events(readFileSync(path, 'utf8'))).toMatchObject([PAUSED]);
  closeSync(fd);
});

test('a FIFO is opened at once, and who comes later reads all', () => {
  execFileSync('mkfifo', [path]);

  const { tell } = monitor({ path });
  tell(PAUSED);

  const reader = openSync(path, O_RDONLY | O_NONBLOCK);
  expect(events(readAll(reader))).toMatchObject([PAUSED]);
  closeSync(reader);
  tell(PAUSED); // to nobody
  const next = openSync(path, O_RDONLY | O_NONBLOCK);
  expect(events(readAll(next))).toMatchObject([PAUSED]);
  closeSync(next);
  expect(lost).toEqual([]);
});

function readAll(fd: number): string {
  const bytes = Buffer.alloc(1 << 20);
  let text = '';
  for (;;)
    try {
      const count = readSync(fd, bytes);
      if (count === 0) return text;
      text += bytes.toString('utf8', 0, count);
    } catch {
      return text;
    }
}

test('what nobody reads is lost beyond a limit, whole events, and a late reader gets the rest', async () => {
  execFileSync('mkfifo', [path]);
  const { tell } = monitor({ path });

  for (let i = 0; i < 5000; i++) tell(PAUSED);
  expect(lost).toEqual(['Events are lost: nobody reads them']);

  const reader = openSync(path, O_RDONLY | O_NONBLOCK);
  let text = '';
  const read = () => {
    text += readAll(reader);
    return text.length;
  };
  await expect.poll(read, SOON).toBeGreaterThan(256 * 1024);
  tell({ source: 'vm', event: 'resumed' });
  const newest = () => {
    read();
    return events(text).at(-1)?.event;
  };
  await expect.poll(newest, SOON).toBe('resumed');
  expect(events(text).length).toBeLessThan(5000);
  closeSync(reader);
});

test('of an inherited pipe the others keep their flags, and its reader may go', () => {
  execFileSync('mkfifo', [path]);
  const reader = openSync(path, O_RDONLY | O_NONBLOCK);
  const fd = openSync(path, 'w');
  const flags = () => /flags:\s*(\d+)/.exec(readFileSync(`/proc/self/fdinfo/${fd}`, 'utf8'))?.[1];
  const before = flags();
  const { tell } = monitor({ fd });

  tell(PAUSED);
  expect(events(readAll(reader))).toMatchObject([PAUSED]);
  expect(flags()).toBe(before);

  closeSync(reader);
  for (let i = 0; i < 10; i++) tell(PAUSED);
  expect(lost).toEqual([]);
  closeSync(fd);
});

test('a socket is taken, and one whose peer is gone is told of once', async () => {
  const [ours, theirs] = native.unixStreams.pair();
  const { tell } = monitor({ fd: ours });
  tell(PAUSED);
  const bytes = Buffer.alloc(4096);
  const text = bytes.toString('utf8', 0, readSync(theirs, bytes));
  expect(events(text)).toMatchObject([PAUSED]);

  closeSync(theirs);
  for (let i = 0; i < 3; i++) tell(PAUSED);
  await expect.poll(() => lost, SOON).toEqual([expect.stringMatching(/^Events are lost: .*EPIPE/)]);
  tell(PAUSED);
  expect(lost.length).toBe(1);
});

test.each([
  ['ENOENT', { path: '/nowhere/events' }],
  ['EBADF', { fd: 1_000_000 }],
  ['EISDIR', { path: '/' }],
])('%s is thrown', (code, where) => {
  expect(() => monitor(where)).toThrow(code);
});
