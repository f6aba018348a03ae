import { mkdirSync, mkdtempSync, readdirSync, rmSync, truncateSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, test, vi } from 'vitest';
import type { FileMapping } from '../../../../src/devices/device.ts';
import { Pmem } from '../../../../src/devices/virtio/pmem.ts';
import { errorChain } from '../../../../src/errors.ts';
import { native } from '../../../../src/native.ts';
import { Driver } from '../../support/driver.ts';

const MIB = 1 << 20;
const GPA = 0x1_2000_0000;
const FLUSH = Uint8Array.of(0, 0, 0, 0);
const [OK, EIO] = [Uint8Array.of(0, 0, 0, 0), Uint8Array.of(1, 0, 0, 0)];

let folder: string;
let file: string;
let warnings: string[];
let mapped: FileMapping[];
let driver: Driver | undefined;

beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'pmem-'));
  file = join(folder, 'pmem.img');
  warnings = [];
  mapped = [];
  driver = undefined;
  writeFileSync(file, '');
  truncateSync(file, 4 * MIB);
});

afterEach(async () => {
  vi.restoreAllMocks();
  await driver?.pci[Symbol.asyncDispose]();
  rmSync(folder, { recursive: true });
});

const plug = (config: object = {}): Pmem =>
  new Pmem(
    { iommu: false, pci_segment: 0, discard_writes: false, file, ...config },
    {
      id: '_pmem0',
      onWarning: (text) => warnings.push(text),
      mapFile: (mapping) => {
        mapped.push(mapping);
        return GPA;
      },
    },
  );

function start(config?: object): Driver {
  driver = new Driver(plug(config));
  driver.start();
  return driver;
}

test('the guest is told where the file is, and how long', () => {
  const { config } = plug({ size: 2 * MIB });

  const view = new DataView(config.buffer);
  expect(view.getBigUint64(0, true)).toBe(BigInt(GPA));
  expect(view.getBigUint64(8, true)).toBe(BigInt(2 * MIB));
  expect(mapped).toMatchObject([{ sizeBytes: 2 * MIB, privateCopy: false, readonly: false }]);
});

test('flushes that come while one is out share the next', async () => {
  const sync = vi.spyOn(native.disks, 'sync');
  const running = start();

  const answers = await Promise.all(
    Array.from({ length: 200 }, () => running.request(0, FLUSH, 4)),
  );

  for (const answer of answers) expect(answer).toEqual(OK);
  expect(sync.mock.calls.length).toBeLessThan(5);
});

test('a flush that fails is an error of the guest, told to the log', async () => {
  vi.spyOn(native.disks, 'sync').mockRejectedValue(new Error('EIO: I/O error, fdatasync'));

  expect(await start().request(0, FLUSH, 4)).toEqual(EIO);

  expect(warnings).toEqual([expect.stringContaining('EIO: I/O error, fdatasync')]);
});

test('requests that are no flush fail, whatever they are', async () => {
  const sync = vi.spyOn(native.disks, 'sync');
  const running = start();

  expect(await running.request(0, Uint8Array.of(1, 0, 0, 0), 4)).toEqual(EIO);
  expect(await running.request(0, Uint8Array.of(0, 0), 4)).toEqual(EIO);
  expect(await running.request(0, FLUSH, 2)).toEqual(OK.subarray(0, 2));
  expect(sync).toHaveBeenCalledTimes(1);
});

test('nothing is synced that the file does not get', async () => {
  const sync = vi.spyOn(native.disks, 'sync');

  expect(await start({ discard_writes: true }).request(0, FLUSH, 4)).toEqual(OK);

  expect(mapped).toMatchObject([{ privateCopy: true }]);
  expect(sync).not.toHaveBeenCalled();
});

test('a reset waits for the flush that is out', async () => {
  let finish = (): void => {};
  const syncing = new Promise<void>((resolve) => {
    finish = resolve;
  });
  vi.spyOn(native.disks, 'sync').mockReturnValue(syncing);
  const pmem = plug();
  driver = new Driver(pmem);
  driver.start();
  void driver.request(0, FLUSH, 4);
  await vi.waitFor(() => expect(driver?.queue(0).outCount).toBe(1));

  let isReset = false;
  const reset = pmem.reset().then(() => {
    isReset = true;
  });
  await new Promise((resolve) => setTimeout(resolve, 20));
  const before = isReset;
  finish();
  await reset;

  expect(before).toBe(false);
});

test('a folder has an unnamed file in it', () => {
  plug({ file: folder, size: 2 * MIB });

  expect(readdirSync(folder)).toEqual(['pmem.img']);
  expect(mapped).toMatchObject([{ sizeBytes: 2 * MIB, privateCopy: false }]);
});

describe('refused is', () => {
  const reasons = (config: object): string => {
    try {
      Pmem.check(
        { iommu: false, pci_segment: 0, discard_writes: false, file, ...config },
        'pmem[0]',
      );
    } catch (error) {
      return errorChain(error).join(': ');
    }
    return 'nothing';
  };

  const cutTo = (sizeBytes: number) => () => {
    truncateSync(file, sizeBytes);
    return {};
  };

  test.each<[string, object | (() => object), string]>([
    [
      'a file that is missing',
      { file: '/nowhere/pmem' },
      'No such file or directory (os error 2): pmem[0].file is /nowhere/pmem',
    ],
    ['an empty one', cutTo(0), 'multiple of 2MiB: pmem[0].file is'],
    ['one of 1 MiB', cutTo(MIB), 'with 1048576 bytes: give it, or pmem[0].size'],
    ['one smaller than size', { size: 6 * MIB }, `pmem[0].size is ${6 * MIB}, and`],
    ['a folder without size', () => ({ file: folder }), 'a folder: give pmem[0].size'],
    [
      'a folder that takes no file',
      { file: '/proc', size: 2 * MIB },
      'pmem[0].file is /proc, where no file',
    ],
    ['a character device', { file: '/dev/null' }, 'neither a file, a block device nor a folder'],
    [
      'a folder within the file',
      () => ({ file: join(file, 'x') }),
      'Not a directory (os error 20)',
    ],
  ])('%s', (_, config, text) => {
    expect(reasons(typeof config === 'function' ? config() : config)).toContain(text);
  });

  test('not a private copy of a folder either', () => {
    mkdirSync(join(folder, 'sub'));
    expect(reasons({ file: join(folder, 'sub'), size: 2 * MIB, discard_writes: true })).toBe(
      'nothing',
    );
  });
});
