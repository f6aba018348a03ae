import { execFileSync } from 'node:child_process';
import { mkdtempSync, rmSync, statSync, truncateSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test, vi } from 'vitest';
import { normalise } from '../../../../src/api/dialects.ts';
import { Block, type DiskConfig } from '../../../../src/devices/virtio/block.ts';
import { native } from '../../../../src/native.ts';
import type { BlockEngineOptions, DiskImageOptions } from '../../../../src/native-disks.ts';
import type { RateLimiter } from '../../../../src/native-limits.ts';
import { openFiles } from '../../../support/fds.ts';

const MIB = 2 ** 20;
const WRITEBACK = 32;
const FLUSH = 1n << 9n;
const CONFIG_WCE = 1n << 11n;

/** Not in a RAM disk, which may know neither direct I/O nor holes. */
let folder: string;
let image: string;
const disks: Block[] = [];
const warnings: string[] = [];

const SEG_MAX = 12;

/** Stands for the data plane: notes what it is told. */
const engine = {
  options: undefined as BlockEngineOptions | undefined,
  start: vi.fn(),
  setWriteback: vi.fn(),
  pause: vi.fn(async () => {}),
  resume: vi.fn(),
  stop: vi.fn(async () => {}),
};

beforeEach(() => {
  folder = mkdtempSync('/var/tmp/block-');
  image = join(folder, 'disk.img');
  writeFileSync(image, '');
  truncateSync(image, 32 * MIB);
  const make = vi.fn(function make(options: BlockEngineOptions) {
    engine.options = options;
    return engine;
  });
  vi.spyOn(native, 'BlockEngine', 'get').mockReturnValue(make as never);
});

afterEach(async () => {
  for (const disk of disks.splice(0)) await disk[Symbol.asyncDispose]();
  rmSync(folder, { recursive: true });
  warnings.length = 0;
  vi.restoreAllMocks();
  vi.resetAllMocks();
});

/** A disk as vm.create would have it made. */
function diskOf(
  body: object = {},
  id = '_disk0',
  rateLimitGroups: ReadonlyMap<string, RateLimiter> = new Map(),
): Block {
  const disk = { path: image, ...body };
  const seed = 'wce' in body ? { cmdline: { args: '' } } : {};
  const [config] = normalise({ ...seed, disks: [disk] }).config.disks as DiskConfig[];
  if (!config) throw new Error('No disk');
  const context = {
    id,
    rateLimitGroups,
    onWarning: (message: string) => void warnings.push(message),
  };
  const made = new Block(config, context);
  disks.push(made);
  return made;
}

test.each([
  [128, 126],
  [1024, 1022],
  [32_768, 1022],
])('with queues of %i a driver may send %i segments, all in one readv', (queue_size, segMax) => {
  const { config } = diskOf({ queue_size });

  expect(new DataView(config.buffer).getUint32(SEG_MAX, true)).toBe(segMax);
});

const needsReset = vi.fn();
const activate = (disk: Block, features = FLUSH | CONFIG_WCE) =>
  disk.activate({ features, queues: [undefined], configChanged: () => {}, needsReset });

const bitsOf = (features: bigint) =>
  Array.from({ length: 64 }, (_, bit) => bit).filter((bit) => (features >> BigInt(bit)) & 1n);

test.each<[object, number[]]>([
  [{}, [2, 6, 9, 10, 11, 13, 14, 28, 29]],
  [{ readonly: true }, [2, 5, 6, 9, 10, 11, 13, 14, 28, 29]],
  [{ num_queues: 2 }, [2, 6, 9, 10, 11, 12, 13, 14, 28, 29]],
  [{ sparse: false }, [2, 6, 9, 10, 11, 14, 28, 29]],
])('a disk with %j offers %j', (body, bits) => {
  expect(bitsOf(diskOf(body).features)).toEqual(bits);
});

test('the configuration space is as the specification lays it out', () => {
  const disk = diskOf({ num_queues: 2, queue_size: 256 });

  const view = new DataView(disk.config.buffer);
  expect(disk.config).toHaveLength(60);
  expect(view.getBigUint64(0, true)).toBe(65_536n); // capacity in sectors
  const words = [8, 12, 16, 20, 24, 28].map((offset) => view.getUint32(offset, true));
  // No size_max; 256 descriptors but two for data; no geometry; blocks; topology: min_io_size 1.
  expect(words).toEqual([0, 254, 0, 512, 0x0001_0000, 0]);
  expect([...disk.config.subarray(32, 36)]).toEqual([1, 0, 2, 0]); // writeback, num_queues
  const limits = [36, 40, 44, 48, 52, 56].map((offset) => view.getUint32(offset, true));
  expect(limits).toEqual([0xffff_ffff, 1, 1, 0xffff_ffff, 1, 1]);
  expect(disk.queueSizes).toEqual([256, 256]);
});

test('a 2 TiB image has its capacity', () => {
  truncateSync(image, 2 ** 41);

  expect(new DataView(diskOf().config.buffer).getBigUint64(0, true)).toBe(2n ** 32n);
});

test('what is no whole sector is not shown, and that is said', () => {
  truncateSync(image, 1024 + 100);

  const disk = diskOf();
  activate(disk);

  expect(new DataView(disk.config.buffer).getBigUint64(0, true)).toBe(2n);
  expect(engine.options?.image.sizeBytes).toBe(1024);
  expect(warnings).toEqual(['Disk _disk0: The guest does not see the last 100 bytes of its image']);
});

test.each<[wce: boolean, features: bigint, writeback: boolean]>([
  [true, FLUSH | CONFIG_WCE, true],
  [true, FLUSH, true],
  [true, CONFIG_WCE, false],
  [true, 0n, false],
  [false, FLUSH | CONFIG_WCE, false],
  [false, FLUSH, false],
])('with wce %s, a driver that took %i starts with writeback %s', (wce, features, writeback) => {
  const disk = diskOf({ wce });

  activate(disk, features);

  expect(engine.options?.writeback).toBe(writeback);
  expect(disk.config[WRITEBACK]).toBe(Number(writeback));
});

test('the driver sets the cache mode, before it is ready and after', () => {
  const disk = diskOf();

  disk.writeConfig(WRITEBACK, 1, 0);
  activate(disk);
  disk.writeConfig(WRITEBACK, 1, 1);

  expect(engine.options?.writeback).toBe(false);
  expect(engine.setWriteback.mock.calls).toEqual([[true]]);
  expect(disk.config[WRITEBACK]).toBe(1);
});

test('a driver that took no CONFIG_WCE sets nothing, before it is ready and after', () => {
  const disk = diskOf();

  disk.writeConfig(WRITEBACK, 1, 0);
  activate(disk, FLUSH);
  disk.writeConfig(WRITEBACK, 1, 0);

  expect(engine.options?.writeback).toBe(true);
  expect(engine.setWriteback).not.toHaveBeenCalled();
  expect(disk.config[WRITEBACK]).toBe(1);
});

test.each([
  [0, 4, 0],
  [31, 1, 0],
  [33, 1, 0],
  [36, 4, 0],
  [56, 4, 0xffff_ffff],
])('a write to another field, %i of %i bytes, changes nothing', (offset, sizeBytes, value) => {
  const disk = diskOf();
  activate(disk);
  const before = disk.config.slice();

  disk.writeConfig(offset, sizeBytes, value);

  expect(disk.config).toEqual(before);
  expect(engine.setWriteback).not.toHaveBeenCalled();
});

test('a wider write sets the cache mode and nothing else', () => {
  const disk = diskOf();
  const before = disk.config.slice();
  activate(disk);

  disk.writeConfig(30, 4, 0xff00_ffff);

  before[WRITEBACK] = 0;
  expect(disk.config).toEqual(before);
  expect(engine.setWriteback.mock.calls).toEqual([[false]]);
});

test('a reset ends the data plane and brings the cache mode back', async () => {
  const disk = diskOf();
  activate(disk);
  disk.writeConfig(WRITEBACK, 1, 0);

  await disk.reset();

  expect(engine.stop).toHaveBeenCalledTimes(1);
  expect(disk.config[WRITEBACK]).toBe(1);
  await disk.reset(); // not only after `activate`
  expect(engine.stop).toHaveBeenCalledTimes(1);
});

test.each([
  [{}, 'io_uring'],
  [{ disable_io_uring: true }, 'aio'],
  [{ disable_aio: true }, 'io_uring'],
  [{ disable_io_uring: true, disable_aio: true }, 'sync'],
])('with %j, requests go by %s', (body, io) => {
  activate(diskOf(body));

  expect(engine.options?.io).toBe(io);
});

test('the data plane is told what the config says', () => {
  const queue_affinity = [{ queue_index: 1, host_cpus: [3, 5] }];

  activate(
    diskOf({ readonly: true, sparse: false, serial: 'S123', num_queues: 2, queue_affinity }),
  );

  expect(engine.options).toMatchObject({
    id: '_disk0',
    image: { sizeBytes: 32 * MIB },
    readonly: true,
    discard: false,
    serial: 'S123',
    hostCpus: [[], [3, 5]],
  });
});

test.each([
  ['raw', 'Unknown', true],
  ['raw', 'Raw', false],
  ['vpc', 'Unknown', true],
  ['vpc', 'FixedVhd', false],
  ['qcow2', 'Unknown', false],
])('the first sector of a %s image of type %s is guarded: %s', (format, image_type, guarded) => {
  activate(diskOf({ image_type, path: imageOf(format) }));

  expect(engine.options?.keepRaw).toBe(guarded);
});

test('the blocks are those of the format, on a host of smaller or larger ones', () => {
  const handle = { sizeBytes: 8 * MIB, sectorBytes: 4096, close: async () => {} };
  vi.spyOn(native, 'DiskImage', 'get').mockReturnValue(function open() {
    return handle;
  } as never);

  const { config } = diskOf({ image_type: 'Vhdx', path: imageOf('vhdx') });

  const view = new DataView(config.buffer);
  expect(view.getBigUint64(0, true)).toBe(16_384n); // capacity in sectors of 512
  expect(view.getUint32(20, true)).toBe(4096); // blk_size
  // One block is what is physical, and the least.
  expect([...config.subarray(24, 28)]).toEqual([0, 0, 1, 0]);
});

test('without a serial, one follows from the file, and fits', () => {
  activate(diskOf());

  const { dev, ino } = statSync(image, { bigint: true });
  expect(engine.options?.serial).toBe(`${dev}0${ino}`.slice(0, 20));
});

test('with direct I/O, the image is told how to align', () => {
  const make = vi.spyOn(native, 'DiskImage', 'get');
  const opened: DiskImageOptions[] = [];
  const { DiskImage } = native;
  make.mockReturnValue(function open(options: DiskImageOptions) {
    opened.push(options);
    return new DiskImage(options);
  } as never);

  diskOf({ direct: true });

  expect([512, 1024, 2048, 4096]).toContain(opened[0]?.files[0]?.alignBytes);
});

test('with sparse off, the image gets all of its room', async () => {
  await diskOf({ sparse: false })[Symbol.asyncDispose]();

  expect(warnings).toEqual([]);
  expect(statSync(image).blocks * 512).toBeGreaterThanOrEqual(32 * MIB);
});

test('the image stays open until its room is set aside', async () => {
  let resolve = () => {};
  const room = new Promise<void>((done) => {
    resolve = done;
  });
  vi.spyOn(native.disks, 'preallocate').mockReturnValue(room);
  const disposed = diskOf({ sparse: false })[Symbol.asyncDispose]();
  await new Promise((done) => setImmediate(done));

  expect(openFiles(folder)).toEqual([image]);
  resolve();
  await disposed;
  expect(openFiles(folder)).toEqual([]);
});

test('pauses and resumes go to the data plane, if there is one', async () => {
  const disk = diskOf();
  await disk.pause();
  disk.resume();
  activate(disk);

  await disk.pause();
  disk.resume();

  expect(engine.pause).toHaveBeenCalledTimes(1);
  expect(engine.resume).toHaveBeenCalledTimes(1);
});

test('a data plane that does not start puts the device in need of a reset', () => {
  engine.start.mockImplementation(() => {
    throw new Error('EAGAIN: no thread');
  });

  activate(diskOf());

  expect(needsReset.mock.calls[0]?.[0]).toContain('EAGAIN: no thread');
});

test('limits go to the data plane, and one_time_burst is 0 unless given', () => {
  const make = vi.spyOn(native, 'RateLimiter', 'get');
  const made = vi.fn(function limiter() {});
  make.mockReturnValue(made as never);
  const bandwidth = { size: 9, refill_time: 8, one_time_burst: 7 };

  activate(diskOf({ rate_limiter_config: { bandwidth, ops: { size: 6, refill_time: 5 } } }));

  expect(made).toHaveBeenCalledExactlyOnceWith({
    bandwidth: { size: 9, refillTimeMs: 8, oneTimeBurst: 7 },
    ops: { size: 6, refillTimeMs: 5, oneTimeBurst: 0 },
  });
  expect(engine.options?.limiter).toBe(made.mock.instances[0]);
});

test.each([
  [undefined],
  [{}],
  [{ ops: { size: 0, refill_time: 9 }, bandwidth: { size: 9, refill_time: 0 } }],
])('limits of %j are none', (rate_limiter_config) => {
  activate(diskOf({ rate_limiter_config }));

  expect(engine.options?.limiter).toBeUndefined();
});

test('disks of a group have the limiter of the group', () => {
  const limiter = new native.RateLimiter({});

  activate(diskOf({ rate_limit_group: 'g' }, 'a', new Map([['g', limiter]])));

  expect(engine.options?.limiter).toBe(limiter);
});

test('a reset of the driver forgets neither counters nor what was charged', async () => {
  const disk = diskOf({ rate_limiter_config: { ops: { size: 6, refill_time: 5 } } });
  activate(disk);
  const before = engine.options;
  await disk.reset();

  activate(disk);

  expect(engine.options).not.toBe(before);
  expect(engine.options?.counters).toBe(before?.counters);
  expect(engine.options?.limiter).toBe(before?.limiter);
});

test('what the data plane has to say names the disk', () => {
  activate(diskOf({}, 'root'));

  engine.options?.onError('EIO');

  expect(warnings).toEqual(['Disk root: EIO']);
});

test('the image is locked from the beginning to the end, and closed once', async () => {
  const disk = diskOf();

  expect(() => diskOf()).toThrow('Another instance likely holds a lock');
  expect(openFiles(folder)).toEqual([image]);

  await disk[Symbol.asyncDispose]();
  await disk[Symbol.asyncDispose]();
  expect(openFiles(folder)).toEqual([]);
  expect(() => diskOf()).not.toThrow();
});

test('a new size is the file’s and the guest’s, and nothing is in flight meanwhile', async () => {
  const disk = diskOf();
  const configChanged = vi.fn();
  disk.activate({ features: FLUSH, queues: [], configChanged, needsReset: vi.fn() });

  for (const sizeBytes of [64 * MIB, 16 * MIB]) {
    await disk.resizeDisk(sizeBytes);
    expect(statSync(image).size).toBe(sizeBytes);
    expect(Buffer.from(disk.config).readBigUInt64LE(0)).toBe(BigInt(sizeBytes / 512));
  }

  expect(configChanged).toHaveBeenCalledTimes(2);
  expect([engine.pause, engine.resume].map(({ mock }) => mock.calls.length)).toEqual([2, 2]);
});

test('a paused disk stays so when it gets a new size', async () => {
  const disk = diskOf();
  activate(disk);
  await disk.pause();
  await disk.resizeDisk(64 * MIB);
  expect(engine.resume).not.toHaveBeenCalled();
  disk.resume();
  expect(engine.resume).toHaveBeenCalledOnce();
});

test('an image of another format keeps its size, and its disk goes on', async () => {
  const disk = diskOf({ path: imageOf('qcow2') });
  activate(disk);
  const before = Buffer.from(disk.config);
  await expect(disk.resizeDisk(64 * MIB)).rejects.toMatchObject({ kind: 'invalid-config' });
  expect(Buffer.from(disk.config)).toEqual(before);
  expect(engine.resume).toHaveBeenCalledOnce();
});

/** A new one of 8 MiB. */
function imageOf(format: string): string {
  const path = join(folder, `disk.${format}`);
  execFileSync('qemu-img', ['create', '-q', '-f', format, path, '8M']);
  return path;
}
