/** A disk as a driver meets it: the device and its data plane on a real image, without a VM. */
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { normalise } from '../../src/api/dialects.ts';
import { Block, type DiskConfig } from '../../src/devices/virtio/block.ts';
import { type GuestMemory, native, type Virtqueue } from '../../src/native.ts';
import { until } from '../support/micro-guest.ts';
import { RingDriver } from '../support/ring-driver.ts';

const SECTOR_BYTES = 512;
const HEADER_GPA = 0x2_0000;
const DATA_GPA = 0x2_1000;
const STATUS_GPA = 0x2_2000;

const RO = 1n << 5n;
const FLUSH = 1n << 9n;

// Request types and answers, VIRTIO 1.2 §5.2.6.
const [IN, OUT, FLUSH_ALL, GET_ID, DISCARD, WRITE_ZEROES] = [0, 1, 4, 8, 11, 13];
const [OK, IOERR] = [0, 1];

let folder: string;
let image: string;
let memory: GuestMemory;
let driver: RingDriver;
let queue: Virtqueue;
let disk: Block;

/** Four sectors: the first of 1s, the second of 2s … */
beforeEach(() => {
  folder = mkdtempSync('/var/tmp/disk-');
  image = join(folder, 'disk.img');
  writeFileSync(image, Buffer.concat([1, 2, 3, 4].map((n) => Buffer.alloc(SECTOR_BYTES, n))));
  memory = new native.GuestMemory();
  memory.addRegion({ gpa: 0, sizeBytes: 1 << 20, shared: false, thp: false });
  driver = new RingDriver(memory);
});

afterEach(async () => {
  await disk[Symbol.asyncDispose]();
  queue.close();
  driver.close();
  await memory.close();
  rmSync(folder, { recursive: true });
});

function plug(body: object): void {
  const [config] = normalise({ disks: [{ path: image, ...body }] }).config.disks as DiskConfig[];
  if (!config) throw new Error('No disk');
  disk = new Block(config, { id: '_disk0', onWarning: () => {} });
}

/** The driver is ready, having taken so much of what was offered. */
function activate(features: bigint): void {
  queue = driver.device();
  const unexpected = (reason = 'config changed') => expect.unreachable(reason);
  const calls = { configChanged: unexpected, needsReset: unexpected };
  disk.activate({ features, queues: [queue], ...calls });
}

/** Makes one request. Returns the status, and what came into the buffer of one sector. */
async function ask(type: number, sector: number, data = new Uint8Array(SECTOR_BYTES)) {
  const header = new DataView(new ArrayBuffer(16));
  header.setUint32(0, type, true);
  header.setBigUint64(8, BigInt(sector), true);
  memory.write(HEADER_GPA, new Uint8Array(header.buffer));
  memory.write(DATA_GPA, data);
  memory.write(STATUS_GPA, Uint8Array.of(0xee));
  const toDriver = type === IN || type === GET_ID;
  driver.send(0, [
    { gpa: HEADER_GPA, sizeBytes: header.byteLength },
    ...(type === FLUSH_ALL ? [] : [{ gpa: DATA_GPA, sizeBytes: data.length, write: toDriver }]),
    { gpa: STATUS_GPA, sizeBytes: 1, write: true },
  ]);
  await until(() => driver.used().length === 1);
  const [status, got] = [new Uint8Array(1), new Uint8Array(data.length)];
  memory.read(STATUS_GPA, status);
  memory.read(DATA_GPA, got);
  return { status: status[0], got };
}

/** What DISCARD and WRITE_ZEROES are told: one sector, no flags. */
function range(sector: number): Uint8Array<ArrayBuffer> {
  const segment = new DataView(new ArrayBuffer(16));
  segment.setBigUint64(0, BigInt(sector), true);
  segment.setUint32(8, 1, true);
  return new Uint8Array(segment.buffer);
}

test('what a driver writes is in the image, and what is in the image it reads', async () => {
  plug({});
  activate(FLUSH);

  const read = await ask(IN, 1);
  const written = await ask(OUT, 2, new Uint8Array(SECTOR_BYTES).fill(9));
  const flushed = await ask(FLUSH_ALL, 0);

  expect([read, written, flushed].map(({ status }) => status)).toEqual([OK, OK, OK]);
  expect(read.got).toEqual(new Uint8Array(SECTOR_BYTES).fill(2));
  expect([...readFileSync(image)].filter((_, i) => i % SECTOR_BYTES === 0)).toEqual([1, 2, 9, 4]);
});

test.each([
  ['a driver that took RO', FLUSH | RO],
  ['one that ignores it', FLUSH],
])('a read-only disk refuses what would change it, from %s', async (_who, features) => {
  const before = readFileSync(image);
  plug({ readonly: true });
  activate(features);

  const answers = [
    await ask(OUT, 0, new Uint8Array(SECTOR_BYTES).fill(9)),
    await ask(DISCARD, 0, range(0)),
    await ask(WRITE_ZEROES, 0, range(0)),
    await ask(IN, 0),
  ];

  expect(answers.map(({ status }) => status)).toEqual([IOERR, IOERR, IOERR, OK]);
  expect(readFileSync(image)).toEqual(before);
});

test('a driver is told the serial', async () => {
  plug({ serial: 'S123' });
  activate(0n);

  const { status, got } = await ask(GET_ID, 0, new Uint8Array(20).fill(0xff));

  expect(status).toBe(OK);
  expect(Buffer.from(got).toString('latin1')).toBe(`S123${'\0'.repeat(16)}`);
});

test('a request beyond the last whole sector fails', async () => {
  writeFileSync(image, Buffer.alloc(2 * SECTOR_BYTES + 100));
  plug({});
  activate(0n);

  expect((await ask(IN, 1)).status).toBe(OK);
  expect((await ask(IN, 2)).status).toBe(IOERR);
});

test('after a reset another driver has it, from the beginning', async () => {
  plug({});
  for (let round = 0; round < 20; round++) {
    driver = new RingDriver(memory);
    memory.write(0x1_0000, new Uint8Array(0x3000));
    activate(FLUSH);
    expect(await ask(IN, 3)).toMatchObject({ status: OK, got: { 0: 4 } });
    await disk.reset();
    queue.close();
    driver.close();
  }
});

test.each([
  ['that was found to be raw', {}, IOERR],
  ['that is raw by its config', { image_type: 'Raw' }, OK],
])('an image %s gets the header of another format: %o', async (_name, body, status) => {
  plug(body);
  activate(FLUSH);
  const sector = (start: string) => {
    const bytes = new Uint8Array(SECTOR_BYTES);
    bytes.set(Buffer.from(start, 'latin1'));
    return bytes;
  };

  const answers = [
    await ask(OUT, 0, sector('QFI\xfb')),
    await ask(OUT, 0, sector('vhdxfile')),
    await ask(OUT, 1, sector('QFI\xfb')),
    await ask(OUT, 0, sector('\xeb\x63\x90')),
  ];

  expect(answers.map((answer) => answer.status)).toEqual([status, status, OK, OK]);
  expect([...readFileSync(image).subarray(0, 3)]).toEqual([0xeb, 0x63, 0x90]);
});
