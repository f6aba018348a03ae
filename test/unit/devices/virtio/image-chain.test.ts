import { execFileSync } from 'node:child_process';
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test, vi } from 'vitest';
import { type ImageConfig, openChain } from '../../../../src/devices/virtio/image-chain.ts';
import type { VmmError } from '../../../../src/errors.ts';
import { native } from '../../../../src/native.ts';
import { diskConfig } from '../../../support/disk-guest.ts';
import { openFiles } from '../../../support/fds.ts';

const MIB = 2 ** 20;

/** Not in a RAM disk, which may not know direct I/O. */
let folder: string;
const at = (name: string) => join(folder, name);

beforeEach(() => {
  folder = mkdtempSync('/var/tmp/chain-');
  writeFileSync(at('raw'), Buffer.alloc(MIB));
});

afterEach(() => {
  vi.restoreAllMocks();
  expect(openFiles(folder)).toEqual([]);
  rmSync(folder, { recursive: true });
});

/** A qcow2 whose header names what it is backed by; QEMU does not look whether that is there. */
function qcow2(name: string, backing?: string, format?: string): void {
  const file = backing === undefined ? [] : ['-u', '-b', backing];
  const named = format === undefined ? [] : ['-F', format];
  execFileSync('qemu-img', ['create', '-q', '-f', 'qcow2', ...file, ...named, at(name), `${MIB}`]);
}

/** QEMU of today always says of what format a backing file is; so the entry is made another. */
function qcow2OfUnsaid(name: string, backing: string): void {
  qcow2(name, backing, 'raw');
  const bytes = readFileSync(at(name));
  bytes.write('none', bytes.indexOf(Buffer.of(0xe2, 0x79, 0x2a, 0xca)), 'latin1');
  writeFileSync(at(name), bytes);
}

const configOf = (body: object): ImageConfig =>
  diskConfig({ path: at('top'), image_type: 'Qcow2', backing_files: true, ...body });

/** Of each file, its name and how it is read. */
function opened(body: object = {}): string[] {
  const chain = openChain(configOf(body), 'disks[0]');
  for (const { file } of chain) file.close();
  return chain.map(({ file, type }) => `${file.path.slice(folder.length + 1)} ${type}`);
}

/** The text that names the field, and what to do. */
function remedyOf(body: object = {}): string {
  try {
    opened(body);
  } catch (error) {
    const { kind, message, cause } = error as VmmError;
    expect([kind, message]).toEqual(['invalid-config', 'Cannot open disk path']);
    return (cause as Error).message;
  }
  return expect.unreachable();
}

test.each([
  ['a name', () => 'raw'],
  ['a path', () => at('raw')],
  ['a path behind file:', () => `file:${at('raw')}`],
  ['a name with a colon behind a folder', () => './a:b'],
])('a backing file is found by %s', (_what, name) => {
  writeFileSync(at('a:b'), Buffer.alloc(MIB));
  qcow2('top', name(), 'raw');

  expect(opened()).toEqual(['top Qcow2', expect.stringMatching(/^(raw|a:b) Raw$/)]);
});

test('what is said to be raw is raw, whatever a guest has written into it', () => {
  qcow2('base', '/etc/shadow', 'raw');
  qcow2('top', 'base', 'raw');

  expect(opened()).toEqual(['top Qcow2', 'base Raw']);
});

test('a backing file of unsaid format is qcow2 or raw by its contents', () => {
  qcow2('base');
  qcow2OfUnsaid('top', 'base');
  qcow2OfUnsaid('other', 'raw');

  expect(opened()).toEqual(['top Qcow2', 'base Qcow2']);
  expect(opened({ path: at('other') })).toEqual(['other Qcow2', 'raw Raw']);
});

test('but one found to be qcow2 is not followed: a guest may have written that', () => {
  qcow2('base', '/etc/shadow', 'raw');
  qcow2OfUnsaid('top', 'base');

  expect(remedyOf()).toMatch(/is backed by \/etc\/shadow, but .*by qemu-img rebase -u -F qcow2$/);
});

test.each([
  ['an image of unsaid type', { image_type: 'Unknown' }],
  ['backing_files off', { backing_files: false }],
])('with %s, what is backed by another file is refused', (_what, body) => {
  qcow2('top', 'raw', 'raw');

  expect(remedyOf(body)).toBe(
    `disks[0].path is ${at('top')}, which is backed by raw: set disks[0].image_type to Qcow2 and ` +
      'disks[0].backing_files to true to have that read',
  );
});

test.each<[string, () => void, string]>([
  ['itself', () => qcow2('top', 'top', 'qcow2'), 'which is backed by itself: end the loop'],
  ['what it backs', () => loop(), 'which is backed by itself: end the loop'],
  ['a file that is missing', () => qcow2('top', 'none', 'raw'), 'none, which is not there'],
  ['a directory', () => directory(), 'd, a directory'],
  ['a FIFO', () => fifo(), 'fifo, a FIFO: name an image file or a block device'],
  ['a character device', () => qcow2('top', '/dev/zero', 'raw'), '/dev/zero, neither a file'],
  ['a VMDK', () => qcow2('top', 'raw', 'vmdk'), 'raw, which is vmdk to'],
  ['a network', () => qcow2('top', 'nbd://host/disk', 'raw'), 'nbd://host/disk, no path'],
  ['options', () => qcow2('top', 'json:{"driver":"raw"}', 'raw'), 'json:{"driver":"raw"}, no path'],
  ['what is no qcow2', () => qcow2('top', 'raw', 'qcow2'), `backed by RAW: `],
  ['17 files', () => files(17), 'one file more than 16: join some by qemu-img commit'],
  ['100 files', () => files(100), 'one file more than 16'],
])('what is backed by %s is refused by name', (_what, make, text) => {
  make();

  const remedy = remedyOf();

  expect(remedy).toContain(`disks[0].path is ${at('top')}`);
  expect(remedy).toContain(text.replace('RAW', at('raw')));
});

test('a chain of 16 files is taken', () => {
  files(16);

  expect(opened()).toHaveLength(16);
});

test('past the page cache, clusters smaller than blocks of the host are refused', () => {
  execFileSync('qemu-img', [
    'create',
    '-q',
    '-f',
    'qcow2',
    '-o',
    'cluster_size=512',
    at('top'),
    '1M',
  ]);
  const { prepare } = native.disks;
  vi.spyOn(native.disks, 'prepare').mockImplementation((fd, direct) => {
    return { ...prepare(fd, direct), directAlignBytes: direct ? 4096 : 1 };
  });

  expect(remedyOf({ direct: true })).toContain('clusters of 512 bytes and its host blocks of 4096');
  expect(opened({ direct: true, readonly: true })).toEqual(['top Qcow2']);
});

function loop(): void {
  qcow2('top', 'middle', 'qcow2');
  qcow2('middle', './top', 'qcow2');
}

function directory(): void {
  mkdirSync(at('d'));
  qcow2('top', 'd', 'raw');
}

function fifo(): void {
  execFileSync('mkfifo', [at('fifo')]);
  qcow2('top', 'fifo', 'raw');
}

/** A chain of so many: copies of one image but for the names in them, for QEMU takes its time. */
function files(count: number): void {
  const nameOf = (i: number) => `file${100 + i}`;
  qcow2('top', nameOf(1), 'qcow2');
  const bytes = readFileSync(at('top'));
  const nameAt = bytes.indexOf(nameOf(1));
  for (let i = 1; i < count - 1; i++) {
    bytes.write(nameOf(i + 1), nameAt);
    writeFileSync(at(nameOf(i)), bytes);
  }
  qcow2(nameOf(count - 1));
}
