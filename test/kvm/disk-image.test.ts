/** Disks over image formats: qemu-img makes the images, and says what is in them afterwards. */
import { execFileSync } from 'node:child_process';
import {
  appendFileSync,
  mkdtempSync,
  readFileSync,
  rmSync,
  statSync,
  truncateSync,
  writeFileSync,
} from 'node:fs';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';
import {
  DISCARD,
  DiskGuest,
  FLUSH_ALL,
  IN,
  IOERR,
  OK,
  OUT,
  range,
  SECTOR_BYTES,
  UNSUPP,
  WRITE_ZEROES,
} from '../support/disk-guest.ts';
import { until } from '../support/micro-guest.ts';

const MIB = 2 ** 20;
const DISK_BYTES = 8 * MIB;

let folder: string;
const at = (name: string) => join(folder, name);

const qemuImg = (...args: string[]) => execFileSync('qemu-img', args, { encoding: 'utf8' });

/** Bytes of the image as QEMU has them. */
function contentsOf(image: string, format: string): Buffer {
  qemuImg('convert', '-f', format, '-O', 'raw', image, at('contents.raw'));
  return readFileSync(at('contents.raw'));
}

const filled = (value: number, sizeBytes = SECTOR_BYTES) => new Uint8Array(sizeBytes).fill(value);

/** Data at the start and in the middle, and else nothing. */
let model: Buffer;

beforeEach(() => {
  folder = mkdtempSync('/var/tmp/disk-image-');
  model = Buffer.alloc(DISK_BYTES);
  model.fill(1, 0, 100_000);
  model.fill(2, 4 * MIB, 5 * MIB);
  writeFileSync(at('source.raw'), model);
});

afterEach(() => rmSync(folder, { recursive: true }));

const sectorOf = (offset: number) => offset / SECTOR_BYTES;
const modelAt = (sector: number, sizeBytes = SECTOR_BYTES) =>
  Buffer.from(model.subarray(sector * SECTOR_BYTES, sector * SECTOR_BYTES + sizeBytes));

test.each([
  ['Qcow2', 'qcow2', 'compat=1.1'],
  ['Qcow2', 'qcow2', 'compat=0.10'],
  ['FixedVhd', 'vpc', 'subformat=fixed,force_size=on'],
  ['FixedVhd', 'vpc', 'subformat=dynamic,force_size=on'],
  ['Vhdx', 'vhdx', 'subformat=fixed'],
  ['Vhdx', 'vhdx', 'subformat=dynamic'],
])('%s (%s, %s): read, written and left as QEMU would', async (type, format, options) => {
  qemuImg('convert', '-O', format, '-o', options, at('source.raw'), at('disk'));
  await using guest = new DiskGuest({ path: at('disk'), image_type: type }).activate();
  const write = (sector: number, data: Uint8Array) => {
    model.set(data, sector * SECTOR_BYTES);
    return guest.ask(OUT, sector, data);
  };

  const read = await guest.ask(IN, sectorOf(4 * MIB) - 100, filled(9, 200 * SECTOR_BYTES));
  const asItWas = modelAt(sectorOf(4 * MIB) - 100, 200 * SECTOR_BYTES);
  const answers = [
    await write(3, filled(3)),
    await write(sectorOf(2 * MIB) - 7, filled(4, 130 * SECTOR_BYTES)),
    await write(sectorOf(5 * MIB) - 1, filled(5, 2 * SECTOR_BYTES)),
    await guest.ask(FLUSH_ALL, 0),
    await guest.ask(WRITE_ZEROES, 0, range(1, 5)),
    await guest.ask(IN, sectorOf(DISK_BYTES)),
  ];
  model.fill(0, SECTOR_BYTES, 6 * SECTOR_BYTES);
  const again = await guest.ask(IN, sectorOf(2 * MIB) - 8, filled(9, 132 * SECTOR_BYTES));
  await guest[Symbol.asyncDispose]();

  expect(guest.disk.imageType).toBe(type);
  expect(asItWas.equals(read.got)).toBe(true);
  expect(answers.map(({ status }) => status)).toEqual([OK, OK, OK, OK, OK, IOERR]);
  expect(modelAt(sectorOf(2 * MIB) - 8, 132 * SECTOR_BYTES).equals(again.got)).toBe(true);
  expect(contentsOf(at('disk'), format).equals(model)).toBe(true);
  if (format !== 'vpc') expect(qemuImg('check', '-f', format, at('disk'))).toContain('No errors');
});

test('what is flushed is in the file, whatever becomes of the process', async () => {
  qemuImg('create', '-f', 'qcow2', at('disk'), `${DISK_BYTES}`);
  await using guest = new DiskGuest({ path: at('disk') }).activate();
  await guest.ask(OUT, 5, filled(7));

  await guest.ask(FLUSH_ALL, 0);
  execFileSync('cp', [at('disk'), at('copy')]);

  expect(contentsOf(at('copy'), 'qcow2').subarray(5 * SECTOR_BYTES, 6 * SECTOR_BYTES)).toEqual(
    Buffer.alloc(SECTOR_BYTES, 7),
  );
});

test('a discard gives room back in a qcow2, and is not to be had in a VHD', async () => {
  qemuImg('convert', '-O', 'qcow2', at('source.raw'), at('disk'));
  qemuImg('convert', '-O', 'vpc', at('source.raw'), at('disk.vhd'));
  const before = statSync(at('disk')).blocks;
  const all = range(sectorOf(4 * MIB), sectorOf(MIB));
  await using guest = new DiskGuest({ path: at('disk') }).activate();
  await using vhd = new DiskGuest({ path: at('disk.vhd') }).activate();

  const discarded = await guest.ask(DISCARD, 0, all);
  const read = await guest.ask(IN, sectorOf(4 * MIB));
  await guest.ask(FLUSH_ALL, 0);

  expect([discarded.status, read.got]).toEqual([OK, filled(0)]);
  expect(statSync(at('disk')).blocks).toBeLessThan(before - 1000);
  expect((await vhd.ask(DISCARD, 0, all)).status).toBe(UNSUPP);
});

test('a chain is read through, by names relative to who names them, and only its top is written', async () => {
  execFileSync('mkdir', [at('base')]);
  writeFileSync(at('base/raw'), model.subarray(0, 5 * MIB - 100));
  qemuImg('create', '-f', 'qcow2', '-b', 'raw', '-F', 'raw', at('base/middle'), `${6 * MIB}`);
  execFileSync('qemu-io', ['-c', 'write -P 3 1M 64k', at('base/middle')]);
  const backing = ['-b', 'base/middle', '-F', 'qcow2'];
  qemuImg('create', '-u', '-f', 'qcow2', ...backing, at('top'), `${DISK_BYTES}`);
  const untouched = [readFileSync(at('base/raw')), readFileSync(at('base/middle'))];
  const config = { path: at('top'), image_type: 'Qcow2', backing_files: true };
  await using guest = new DiskGuest(config).activate();

  await guest.ask(OUT, 1, filled(8));
  const read: Uint8Array[] = [];
  for (const offset of [0, MIB, 4 * MIB, 5 * MIB - SECTOR_BYTES, 7 * MIB])
    read.push((await guest.ask(IN, sectorOf(offset))).got);
  const overlaid = await guest.ask(IN, 0, filled(9, 3 * SECTOR_BYTES));
  await guest[Symbol.asyncDispose]();

  expect(read.map(([byte]) => byte)).toEqual([1, 3, 2, 2, 0]);
  expect([...(read[3] ?? [])].filter((byte) => byte === 0)).toHaveLength(100);
  expect([0, 1, 2].map((i) => overlaid.got[i * SECTOR_BYTES])).toEqual([1, 8, 1]);
  for (const [i, name] of ['base/raw', 'base/middle'].entries())
    expect(untouched[i]?.equals(readFileSync(at(name)))).toBe(true);
  expect(contentsOf(at('top'), 'qcow2')[SECTOR_BYTES]).toBe(8);
});

test('a chain of 16 files is read through', async () => {
  qemuImg('create', '-f', 'raw', at('0'), `${DISK_BYTES}`);
  execFileSync('qemu-io', ['-f', 'raw', '-c', 'write -P 6 0 64k', at('0')]);
  for (let i = 1; i < 16; i++)
    qemuImg('create', '-f', 'qcow2', '-b', `${i - 1}`, '-F', i > 1 ? 'qcow2' : 'raw', at(`${i}`));
  const config = { path: at('15'), image_type: 'Qcow2', backing_files: true };
  await using guest = new DiskGuest(config).activate();

  expect((await guest.ask(IN, 0)).got).toEqual(filled(6));
});

test('an image that is cut short in use fails what lies behind, and nothing else', async () => {
  qemuImg('convert', '-O', 'qcow2', at('source.raw'), at('disk'));
  await using guest = new DiskGuest({ path: at('disk') }).activate();
  expect((await guest.ask(IN, 0)).got).toEqual(filled(1));

  truncateSync(at('disk'), 512 * 1024);

  expect((await guest.ask(IN, sectorOf(5 * MIB) - 1)).status).toBe(IOERR);
  expect((await guest.ask(IN, 0)).got).toEqual(filled(1));
  await until(() => guest.warnings.length > 0); // it comes by a way of its own
  expect(guest.warnings[0]).toMatch(
    /^Disk _disk0: Cannot read 512 bytes at offset \d+ of the image/,
  );
});

test.each([
  ['raw', []],
  ['qcow2', []],
  ['vpc', []],
  ['vhdx', ['-o', 'block_size=1M']],
])(
  'an image of %s that somebody makes longer in use stays the disk that it was',
  async (format, options) => {
    qemuImg('convert', '-O', format, ...options, at('source.raw'), at('disk'));
    const config = { path: at('disk'), ...(format === 'raw' && { image_type: 'Raw' }) };
    await using guest = new DiskGuest(config).activate();
    const size = () => Number(Buffer.from(guest.disk.config).readBigUInt64LE());
    const before = size();

    appendFileSync(at('disk'), filled(0xee, 3 * MIB));
    const beyond = await guest.ask(IN, before);
    const written = await guest.ask(OUT, sectorOf(6 * MIB), filled(3));
    const around = await guest.ask(IN, sectorOf(6 * MIB) - 1, filled(9, 3 * SECTOR_BYTES));
    const flushed = await guest.ask(FLUSH_ALL, 0);

    expect([beyond, written, around, flushed].map(({ status }) => status)).toEqual([
      ...[IOERR, OK, OK, OK],
    ]);
    expect([0, 1, 2].map((i) => around.got[i * SECTOR_BYTES])).toEqual([0, 3, 0]);
    expect((await guest.ask(IN, sectorOf(5 * MIB) - 1)).got).toEqual(filled(2));
    expect(size()).toBe(before);
  },
);

test('a backing file that is cut short in use fails what lies behind', async () => {
  qemuImg('create', '-f', 'qcow2', '-b', 'source.raw', '-F', 'raw', at('top'));
  const config = { path: at('top'), image_type: 'Qcow2', backing_files: true };
  await using guest = new DiskGuest(config).activate();

  truncateSync(at('source.raw'), MIB);

  expect((await guest.ask(IN, sectorOf(4 * MIB))).status).toBe(IOERR);
  expect((await guest.ask(IN, 0)).status).toBe(OK);
  await until(() => guest.warnings.length > 0); // it comes by a way of its own
  expect(guest.warnings[0]).toContain('of a backing file: ');
});

test('past the page cache, an image is the same', async () => {
  qemuImg('convert', '-O', 'qcow2', at('source.raw'), at('disk'));
  await using guest = new DiskGuest({ path: at('disk'), direct: true }).activate();
  const data = filled(5, 3 * SECTOR_BYTES);
  model.set(data, 7 * SECTOR_BYTES);

  expect((await guest.ask(OUT, 7, data)).status).toBe(OK);
  const { got } = await guest.ask(IN, 6, filled(9, 5 * SECTOR_BYTES));
  expect(modelAt(6, 5 * SECTOR_BYTES).equals(got)).toBe(true);
  await guest[Symbol.asyncDispose]();

  expect(contentsOf(at('disk'), 'qcow2').equals(model)).toBe(true);
});
