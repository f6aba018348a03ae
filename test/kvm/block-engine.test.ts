import {
  closeSync,
  mkdtempSync,
  openSync,
  readdirSync,
  readFileSync,
  rmSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { type BlockEngine, type GuestMemory, native, type Virtqueue } from '../../src/native.ts';
import type { BlockEngineOptions } from '../../src/native-disks.ts';
import { until } from '../support/micro-guest.ts';
import { RingDriver } from '../support/ring-driver.ts';

const HEADER_GPA = 0x2_0000;
const DATA_GPA = 0x2_1000;
const STATUS_GPA = 0x2_2000;
const SECTOR_BYTES = 512;

let directory: string;
let fd: number;
let memory: GuestMemory;
let driver: RingDriver;
let queue: Virtqueue;
let engine: BlockEngine;
let errors: string[];

/** The second sector of the image is of 7s. */
beforeEach(() => {
  directory = mkdtempSync(join(tmpdir(), 'block-engine-'));
  const path = join(directory, 'image');
  writeFileSync(path, Buffer.alloc(4 * SECTOR_BYTES).fill(7, SECTOR_BYTES, 2 * SECTOR_BYTES));
  fd = openSync(path, 'r+');
  memory = new native.GuestMemory();
  memory.addRegion({ gpa: 0, sizeBytes: 1 << 20, shared: false, thp: false });
  driver = new RingDriver(memory);
  queue = driver.device();
  errors = [];
});

afterEach(async () => {
  await engine.stop();
  queue.close();
  driver.close();
  await memory.close();
  closeSync(fd);
  rmSync(directory, { recursive: true });
});

const imageOf = (file: number, alignBytes = 1) =>
  new native.DiskImage({ files: [{ fd: file, type: 'Raw', alignBytes }], readonly: false });

const start = (options: Partial<BlockEngineOptions> = {}) => {
  engine = new native.BlockEngine({
    id: '_disk0',
    image: imageOf(fd),
    readonly: false,
    writeback: true,
    discard: true,
    keepRaw: false,
    serial: 'serial',
    io: 'io_uring',
    hostCpus: [],
    counters: new native.BlockCounters(),
    onError: (message) => void errors.push(message),
    ...options,
  });
  engine.start([undefined, queue]);
};

/** Asks for a sector by the chain at `head`. */
const read = (head: number, sector: number) => {
  const header = new Uint8Array(16);
  header[8] = sector;
  memory.write(HEADER_GPA, header);
  memory.write(STATUS_GPA, Uint8Array.of(0xee));
  driver.send(head, [
    { gpa: HEADER_GPA, sizeBytes: header.length },
    { gpa: DATA_GPA, sizeBytes: SECTOR_BYTES, write: true },
    { gpa: STATUS_GPA, sizeBytes: 1, write: true },
  ]);
};

const peek = (gpa: number, sizeBytes: number) => {
  const bytes = new Uint8Array(sizeBytes);
  memory.read(gpa, bytes);
  return bytes;
};

const threads = () =>
  readdirSync('/proc/self/task').map((tid) =>
    readFileSync(`/proc/self/task/${tid}/comm`, 'utf8').trim(),
  );

test('a sector is read by a thread that is named after the queue, and ends with stop', async () => {
  start();

  read(0, 1);
  await until(() => driver.irq.take());

  expect(driver.used()).toEqual([{ head: 0, writtenBytes: SECTOR_BYTES + 1 }]);
  expect(peek(STATUS_GPA, 1)).toEqual(Uint8Array.of(0));
  expect(peek(DATA_GPA, SECTOR_BYTES)).toEqual(new Uint8Array(SECTOR_BYTES).fill(7));
  expect(threads()).toContain('_disk0_q1');

  await engine.stop();
  expect(threads()).not.toContain('_disk0_q1');
});

test('what is asked for during a pause is done after it', async () => {
  start();
  await engine.pause();

  read(0, 1);
  expect(driver.used()).toEqual([]);
  engine.resume();
  await until(() => driver.irq.take());

  expect(driver.used()).toHaveLength(1);
});

test('a file that fails is told of once', async () => {
  const wrongWay = openSync(join(directory, 'image'), 'a');
  try {
    start({ image: imageOf(wrongWay) });
    for (const head of [0, 3]) {
      read(head, 1);
      await until(() => driver.irq.take());
    }
    await engine.stop();

    expect(peek(STATUS_GPA, 1)).toEqual(Uint8Array.of(1));
    expect(errors).toEqual([
      'Cannot read 512 bytes at offset 512 of the image: Bad file descriptor',
    ]);
  } finally {
    closeSync(wrongWay);
  }
});

test('the device hears of a queue that the driver broke, and stop still ends', async () => {
  start();

  driver.offer(driver.size);
  driver.kick.signal();
  await until(() => driver.broken.length > 0);
  await engine.stop();

  expect(driver.broken).toEqual(['head beyond the table']);
});

test('options of the wrong kind are refused', () => {
  start();

  expect(() => imageOf(fd, 3)).toThrow('alignBytes is no power of two');
});
