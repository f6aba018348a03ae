/** A raw disk as a driver meets it: the device and its data plane on a real image. */
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';
import {
  DISCARD,
  DiskGuest,
  FLUSH,
  FLUSH_ALL,
  GET_ID,
  IN,
  IOERR,
  OK,
  OUT,
  range,
  SECTOR_BYTES,
  WRITE_ZEROES,
} from '../support/disk-guest.ts';

const RO = 1n << 5n;

let folder: string;
let image: string;
let guest: DiskGuest;

/** Four sectors: the first of 1s, the second of 2s … */
beforeEach(() => {
  folder = mkdtempSync('/var/tmp/disk-');
  image = join(folder, 'disk.img');
  writeFileSync(image, Buffer.concat([1, 2, 3, 4].map((n) => Buffer.alloc(SECTOR_BYTES, n))));
});

afterEach(async () => {
  await guest[Symbol.asyncDispose]();
  rmSync(folder, { recursive: true });
});

/** A driver of that disk is ready, having taken so much of what was offered. */
function plug(body: object, features = FLUSH): void {
  guest = new DiskGuest({ path: image, ...body }).activate(features);
}

const ask: DiskGuest['ask'] = (...request) => guest.ask(...request);

test('what a driver writes is in the image, and what is in the image it reads', async () => {
  plug({});

  const read = await ask(IN, 1);
  const written = await ask(OUT, 2, new Uint8Array(SECTOR_BYTES).fill(9));
  const flushed = await ask(FLUSH_ALL, 0);

  expect([read, written, flushed].map(({ status }) => status)).toEqual([OK, OK, OK]);
  expect(read.got).toEqual(new Uint8Array(SECTOR_BYTES).fill(2));
  expect([...readFileSync(image)].filter((_, i) => i % SECTOR_BYTES === 0)).toEqual([1, 2, 9, 4]);
});

test('what is read and written with success is counted, also over a reset', async () => {
  plug({});
  await ask(OUT, 0, new Uint8Array(2 * SECTOR_BYTES));
  await ask(IN, 1_000_000);
  await guest.reset();
  guest.activate();
  await ask(IN, 1);

  const counted = guest.disk.counters();

  expect(counted).toMatchObject({
    ...{ read_ops: 1, read_bytes: SECTOR_BYTES, write_ops: 1, write_bytes: 2 * SECTOR_BYTES },
    write_latency_avg: counted.write_latency_min,
    write_latency_max: counted.write_latency_min,
  });
  expect(counted.read_latency_avg).toBeGreaterThan(0);
  expect(counted.read_latency_avg).toBeLessThan(10_000_000);
});

test.each([
  ['a driver that took RO', FLUSH | RO],
  ['one that ignores it', FLUSH],
])('a read-only disk refuses what would change it, from %s', async (_who, features) => {
  const before = readFileSync(image);
  plug({ readonly: true }, features);

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
  plug({ serial: 'S123' }, 0n);

  const { status, got } = await ask(GET_ID, 0, new Uint8Array(20).fill(0xff));

  expect(status).toBe(OK);
  expect(Buffer.from(got).toString('latin1')).toBe(`S123${'\0'.repeat(16)}`);
});

test('a request beyond the last whole sector fails', async () => {
  writeFileSync(image, Buffer.alloc(2 * SECTOR_BYTES + 100));
  plug({}, 0n);

  expect((await ask(IN, 1)).status).toBe(OK);
  expect((await ask(IN, 2)).status).toBe(IOERR);
});

test('after a reset another driver has it, from the beginning', async () => {
  plug({});
  for (let round = 0; round < 20; round++) {
    expect(await ask(IN, 3)).toMatchObject({ status: OK, got: { 0: 4 } });
    await guest.reset();
    guest.activate();
  }
});

test.each([
  ['that was found to be raw', {}, IOERR],
  ['that is raw by its config', { image_type: 'Raw' }, OK],
])('an image %s gets the header of another format: %o', async (_name, body, status) => {
  plug(body);
  const sector = (start: string) => {
    const bytes = new Uint8Array(SECTOR_BYTES);
    bytes.set(Buffer.from(start, 'latin1'));
    return bytes;
  };

  const answers = [
    await ask(OUT, 0, sector('QFI\xfb')),
    await ask(OUT, 0, sector('vhdxfile')),
    await ask(OUT, 0, sector('conectix')),
    await ask(OUT, 1, sector('QFI\xfb')),
    await ask(OUT, 0, sector('\xeb\x63\x90')),
  ];

  expect(answers.map((answer) => answer.status)).toEqual([status, status, status, OK, OK]);
  expect([...readFileSync(image).subarray(0, 3)]).toEqual([0xeb, 0x63, 0x90]);
});
