/** Files that a backend puts into the memory of its device, in both generations of requests. */
import { closeSync, mkdtempSync, openSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { MIB, Writer } from '../../../../src/bytes.ts';
import type { VhostUserDevice } from '../../../../src/devices/vhost-user/device.ts';
import { checkFs, openFs } from '../../../../src/devices/vhost-user/fs.ts';
import { BACKEND_REQUEST, PROTOCOL } from '../../../../src/devices/vhost-user/protocol.ts';
import { errorChain } from '../../../../src/errors.ts';
import { type GuestMemory, native } from '../../../../src/native.ts';
import { openFiles } from '../../../support/fds.ts';
import { ScriptedBackend } from '../../support/scripted-backend.ts';

const PAGE = 4096;
const WINDOW = 4 * MIB;
const DRAFT = PROTOCOL.mq | PROTOCOL.backendReq | PROTOCOL.backendSendFd | PROTOCOL.replyAck;
const { fsMap, fsUnmap, fsSync, sharedMemoryMap, sharedMemoryUnmap } = BACKEND_REQUEST;
const [READ, READ_WRITE] = [1, 3];

let folder: string;
let path: string;
let memory: GuestMemory;
let backend: ScriptedBackend;
let device: VhostUserDevice | undefined;
let file: number;
const warnings: string[] = [];

beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'vhost-'));
  path = join(folder, 's');
  writeFileSync(join(folder, 'file'), Buffer.alloc(4 * MIB, 7));
  file = openSync(join(folder, 'file'), 'r+');
  memory = new native.GuestMemory();
  warnings.length = 0;
});

afterEach(async () => {
  backend?.die();
  await device?.[Symbol.asyncDispose]();
  device = undefined;
  closeSync(file);
  await memory.close();
  rmSync(folder, { recursive: true });
});

const share = (fields: object = {}) => ({
  ...{ tag: 'share', socket: path, num_queues: 1, queue_size: 8, pci_segment: 0 },
  ...{ dax: true, cache_size: WINDOW, ...fields },
});

async function open(protocol = DRAFT, fields: object = {}): Promise<void> {
  backend = new ScriptedBackend({ path, protocol, wantsAnswers: true });
  const onWarning = (message: string) => void warnings.push(message);
  device = await openFs(share(fields), { id: '_fs0', memory, onWarning });
}

interface Range {
  fileOffset?: number | bigint;
  offset?: number | bigint;
  sizeBytes?: number | bigint;
  flags?: number | bigint;
}

/** The message of the draft, which has room for eight of them. */
function fsRanges(...ranges: Range[]): Uint8Array {
  const writer = new Writer(256);
  for (const [i, range] of ranges.entries()) {
    const { fileOffset = 0, offset = 0, sizeBytes = PAGE, flags = READ_WRITE } = range;
    for (const [n, value] of [fileOffset, offset, sizeBytes, flags].entries())
      writer.u64(8 * (8 * n + i), value);
  }
  return writer.bytes;
}

function memoryRange({ fileOffset = 0, offset = 0, sizeBytes = PAGE, flags = 1 }: Range, id = 0) {
  return new Writer(40)
    .u8(0, id)
    .u64(8, fileOffset)
    .u64(16, offset)
    .u64(24, sizeBytes)
    .u64(32, flags).bytes;
}

/** Lines of this process's mappings of the file: where in it, and how much. */
function parts(): string[] {
  const lines = readFileSync('/proc/self/maps', 'utf8').split('\n');
  return lines
    .filter((line) => line.endsWith(join(folder, 'file')))
    .map((line) => {
      const [, from = '', to = '', access = '', offset = ''] =
        /^(\w+)-(\w+) (\S+) (\w+)/.exec(line) ?? [];
      const pages = (Number.parseInt(to, 16) - Number.parseInt(from, 16)) / PAGE;
      return `${access} ${Number.parseInt(offset, 16) / PAGE}+${pages}`;
    });
}

describe('a window', () => {
  test('is there with dax alone, of 8 GiB if nothing else is said', async () => {
    await open(DRAFT, { dax: true, cache_size: undefined });
    expect(device?.sharedMemory?.sizeBytes).toBe(8 * 1024 * MIB);
  });

  test.each([
    { dax: false },
    { dax: false, cache_size: undefined },
    { dax: undefined, cache_size: undefined },
  ])('is not there with %j', async (fields) => {
    await open(DRAFT, fields);
    expect(device?.sharedMemory).toBeUndefined();
    expect(backend.last('setProtocolFeatures')?.payload.readBigUInt64LE()).toBe(
      DRAFT & ~PROTOCOL.backendSendFd,
    );
  });

  test.each([0, 1, PAGE, 2 * MIB + 1, 2 ** 42 + 2 * MIB])('of %d bytes is refused', (size) => {
    const check = () => checkFs(share({ cache_size: size }), 'fs[2]');
    expect(check).toThrow('Failed to validate config');
    try {
      check();
    } catch (error) {
      expect(errorChain(error)).toEqual([
        'Failed to validate config',
        `Size of the virtio-fs cache (${size}) is no multiple of 2 MiB up to 4 TiB`,
        `fs[2].cache_size is ${size}: give such a size, or set dax to false`,
      ]);
    }
  });

  test('of a backend that cannot use it is there all the same', async () => {
    await open(PROTOCOL.mq);
    expect(device?.sharedMemory?.sizeBytes).toBe(WINDOW);
  });
});

describe('in the draft of 2020', () => {
  test('files come and go, several at a time', async () => {
    await open();
    const two = [
      { fileOffset: 2 * MIB, sizeBytes: 2 * MIB },
      { fileOffset: 0, offset: 2 * MIB, flags: READ },
    ];

    expect(await backend.ask(fsMap, fsRanges(...two), [file])).toBe(0n);
    expect(parts()).toEqual(['rw-s 512+512', 'r--s 0+1']);
    expect(await backend.ask(fsSync, fsRanges({ sizeBytes: 2 * MIB }))).toBe(0n);
    expect(await backend.ask(fsUnmap, fsRanges({ offset: PAGE, sizeBytes: MIB }))).toBe(0n);
    expect(parts()).toEqual(['rw-s 512+1', 'rw-s 769+255', 'r--s 0+1']);
    expect(await backend.ask(fsUnmap, fsRanges({ sizeBytes: 2n ** 64n - 1n }))).toBe(0n);
    expect(parts()).toEqual([]);
  });

  test.each<[string, number, Range | Uint8Array, boolean]>([
    ['beyond the window', fsMap, { offset: WINDOW }, true],
    ['across its end', fsMap, { offset: WINDOW - PAGE, sizeBytes: 2 * PAGE }, true],
    ['that wraps', fsMap, { offset: 2n ** 53n - 4096n, sizeBytes: 2n ** 53n - 4096n }, true],
    ['of an odd offset', fsMap, { offset: 1 }, true],
    ['of an odd length', fsMap, { sizeBytes: 1 }, true],
    ['of an odd place in the file', fsMap, { fileOffset: 1 }, true],
    ['without a file', fsMap, {}, false],
    ['to be taken away, beyond the window', fsUnmap, { offset: WINDOW }, false],
    ['to be taken away, with a file', fsUnmap, {}, true],
    ['to be synced, with a file', fsSync, {}, true],
    ['to be synced, beyond the window', fsSync, { sizeBytes: WINDOW + PAGE }, false],
    ['of the younger protocol', sharedMemoryMap, memoryRange({}), true],
  ])('a range %s is refused, and the connection lives', async (_, request, range, hasFile) => {
    await open();
    const before = openFiles(folder);
    const payload = range instanceof Uint8Array ? range : fsRanges(range);

    expect(await backend.ask(request, payload, hasFile ? [file] : [])).toBe(1n);

    expect(parts()).toEqual([]);
    expect(openFiles(folder)).toEqual(before);
    expect(await backend.ask(fsMap, fsRanges({}), [file])).toBe(0n);
    expect(warnings).toEqual([]);
  });

  test('what is no file is refused', async () => {
    await open();
    const zero = openSync('/dev/zero', 'r+');
    expect(await backend.ask(fsMap, fsRanges({}), [zero])).toBe(1n);
    closeSync(zero);
  });

  test.each<[string, Uint8Array]>([
    ['of another length', new Uint8Array(255)],
    ['with unknown flags', fsRanges({ flags: 4 })],
    ['beyond what numbers can say', fsRanges({ offset: 2n ** 53n })],
  ])('a request %s ends the connection', async (_, payload) => {
    await open();
    backend.request(fsMap, payload, [file]);
    await expect.poll(() => warnings).toHaveLength(1);
    expect(warnings[0]).toMatch(/^Device _fs0: Its backend at .* is lost/);
  });

  test('requests that come all at once are answered in order', async () => {
    await open();
    for (let i = 0; i < 300; i++) backend.request(fsUnmap, fsRanges({ offset: i % 2 ? 1 : 0 }));
    await expect.poll(() => backend.answers.length).toBe(300);
    expect(backend.answers.slice(0, 4)).toEqual([0n, 1n, 0n, 1n]);
  });
});

describe('in the protocol of today', () => {
  const TODAY = DRAFT | PROTOCOL.sharedMemory;

  test('files come and go', async () => {
    await open(TODAY);

    const mapped = memoryRange({ offset: PAGE, fileOffset: 2 * PAGE });
    expect(await backend.ask(sharedMemoryMap, mapped, [file])).toBe(0n);
    expect(await backend.ask(sharedMemoryMap, memoryRange({ flags: 0 }), [file])).toBe(0n);
    expect(parts()).toEqual(['r--s 0+1', 'rw-s 2+1']);
    expect(await backend.ask(sharedMemoryUnmap, memoryRange({}))).toBe(0n);
    expect(parts()).toEqual(['rw-s 2+1']);
  });

  test('requests of the draft are refused, and those that nobody knows', async () => {
    await open(TODAY);
    for (const request of [fsMap, fsUnmap, fsSync, 3, 11])
      expect(await backend.ask(request, fsRanges({}))).toBe(1n);
  });

  test('another region ends the connection', async () => {
    await open(TODAY);
    backend.request(sharedMemoryMap, memoryRange({}, 1), [file]);
    await expect.poll(() => warnings).toHaveLength(1);
  });
});

test('a backend that did not agree to send files is refused', async () => {
  await open(DRAFT & ~PROTOCOL.backendSendFd);
  expect(await backend.ask(fsMap, fsRanges({}), [file])).toBe(1n);
  expect(parts()).toEqual([]);
});

test('a device without a window refuses all of it', async () => {
  await open(DRAFT, { dax: false });
  expect(await backend.ask(fsMap, fsRanges({}), [file])).toBe(1n);
});

test('what a backend has put there goes with the reset of the device, and not with the backend', async () => {
  await open();
  device?.activate({ features: 0n, queues: [], configChanged: () => {}, needsReset: () => {} });
  expect(await backend.ask(fsMap, fsRanges({}), [file])).toBe(0n);

  backend.die();
  await expect.poll(() => warnings.length).toBeGreaterThan(0);
  expect(parts()).toEqual(['rw-s 0+1']);
  await device?.reset();

  expect(parts()).toEqual([]);
});
