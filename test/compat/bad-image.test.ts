/** What clients get wrong about images of other formats than raw, and what such images may say. */
import { execFileSync } from 'node:child_process';
import { readFileSync, rmSync, truncateSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, afterEach, beforeAll, expect, test } from 'vitest';
import { guestConfig } from './support/guests.ts';
import { type Answer, VmmProcess } from './support/vmm-process.ts';

const MIB = 2 ** 20;

let vmm: VmmProcess;

beforeAll(async () => {
  vmm = await VmmProcess.start();
});

afterAll(() => vmm[Symbol.asyncDispose]());

afterEach(async () => {
  expect(await vmm.put('vm.delete')).toMatchObject({ status: 204 });
  expect(openFiles().filter((path) => /\.(img|qcow2)$/.test(path))).toEqual([]);
});

/** What the process has open. */
const openFiles = (): string[] =>
  execFileSync('ls', ['-l', `/proc/${vmm.pid}/fd`], { encoding: 'utf8' })
    .split('\n')
    .map((line) => line.split(' -> ')[1] ?? '');

const at = (name: string) => join(vmm.folder, name);

const qemuImg = (...args: string[]) => execFileSync('qemu-img', args, { encoding: 'utf8' });

/** A new image of 1 MiB. Returns its path. */
function image(name: string, format: string, ...options: string[]): string {
  rmSync(at(name), { force: true });
  qemuImg('create', '-q', '-f', format, ...options, at(name), `${MIB}`);
  return at(name);
}

const create = (disk: object, process = vmm) =>
  process.put('vm.create', { ...guestConfig(vmm.folder), disks: [disk] });

const texts = ({ body }: Answer) => body as string[];

/** Overwrites a part of an image. */
function patch(path: string, offset: number, ...bytes: number[]): void {
  const contents = readFileSync(path);
  contents.set(bytes, offset);
  writeFileSync(path, contents);
}

test.each([
  ['qcow2', 'Qcow2'],
  ['vpc', 'FixedVhd'],
  ['vhdx', 'Vhdx'],
  ['raw', 'Raw'],
])('an image of %s is found to be so at the boot, and stays so', async (format, type) => {
  expect(await create({ path: image('disk.img', format) })).toMatchObject({ status: 204 });
  const typeNow = async () => {
    const { body } = await vmm.get('vm.info');
    return (body as { config: { disks: { image_type: string }[] } }).config.disks[0]?.image_type;
  };
  expect(await typeNow()).toBe('Unknown');

  for (let i = 0; i < 2; i++) {
    expect(await vmm.put('vm.boot')).toMatchObject({ status: 204 });
    expect(await typeNow()).toBe(type);
    expect(await vmm.put('vm.shutdown')).toMatchObject({ status: 204 });
  }
});

test.each(['qcow2', 'vpc', 'vhdx'])(
  'an image of %s is taken for raw if that is said',
  async (format) => {
    const path = image('disk.img', format);

    expect(await create({ path, image_type: 'Raw' })).toMatchObject({ status: 204 });
    expect(await vmm.put('vm.boot')).toMatchObject({ status: 204 });
  },
);

test('a backing chain that loops: 400 at vm.create, by name', async () => {
  const path = image('a.qcow2', 'qcow2', '-u', '-b', 'b.qcow2', '-F', 'qcow2');
  image('b.qcow2', 'qcow2', '-u', '-b', 'a.qcow2', '-F', 'qcow2');

  const answer = await create({ path, image_type: 'Qcow2', backing_files: true });

  expect(answer.status).toBe(400);
  expect(texts(answer)).toEqual([
    'Error from API',
    'The VM could not be created',
    'Cannot open disk path',
    `disks[0].path is ${path}, which is backed by ${path}, which is backed by itself: ` +
      'end the loop by qemu-img rebase -u',
  ]);
});

test('a qcow2 that QEMU encrypted: 400 at vm.create, with what to do', async () => {
  const path = image('disk.img', 'qcow2');
  patch(path, 35, 1);

  const answer = await create({ path });

  expect(answer.status).toBe(400);
  expect(texts(answer)[3]).toContain(`disks[0].path is ${path}: `);
  expect(texts(answer)[3]).toContain('qemu-img convert');
});

test('a header that is cut short, and one of nonsense: 400, and the config stays', async () => {
  const path = image('disk.img', 'qcow2');
  expect(await create({ path })).toMatchObject({ status: 204 });
  truncateSync(path, 700);
  const short = await vmm.put('vm.boot');
  patch(image('disk.img', 'qcow2'), 20, 0xff, 0xff, 0xff, 0xff);
  const nonsense = await vmm.put('vm.boot');

  expect([short.status, nonsense.status]).toEqual([400, 400]);
  expect(texts(nonsense).join('\n')).toContain(`_disk0.path is ${path}: `);
  image('disk.img', 'qcow2');
  expect(await vmm.put('vm.boot')).toMatchObject({ status: 204 });
});

test('a VHDX whose tables are nonsense: 400 at vm.boot', async () => {
  const path = image('disk.img', 'vhdx');
  patch(path, 192 * 1024, 0xff);
  patch(path, 256 * 1024, 0xff);
  await create({ path });

  const answer = await vmm.put('vm.boot');

  expect(answer.status).toBe(400);
  expect(texts(answer).join('\n')).toContain(`_disk0.path is ${path}: `);
});

test('one qcow2 for two VMs: 409 while the first runs, and it is as it was', async () => {
  await using other = await VmmProcess.start();
  const path = image('disk.img', 'qcow2');
  await create({ path }, other);
  expect(await other.put('vm.boot')).toMatchObject({ status: 204 });
  const before = readFileSync(path);
  await create({ path });

  const refused = await vmm.put('vm.boot');
  const after = readFileSync(path);
  await other.put('vm.shutdown');

  expect(refused.status).toBe(409);
  expect(texts(refused)).toContain('The file is already locked');
  expect(after.equals(before)).toBe(true);
  expect(await vmm.put('vm.boot')).toMatchObject({ status: 204 });
});

test('a backing file is shared by who reads it, and kept from who would write it', async () => {
  await using other = await VmmProcess.start();
  const backing = image('base.img', 'raw');
  const overlay = (name: string) => ({
    path: image(name, 'qcow2', '-b', 'base.img', '-F', 'raw'),
    ...{ image_type: 'Qcow2', backing_files: true },
  });
  await create(overlay('a.qcow2'), other);
  expect(await other.put('vm.boot')).toMatchObject({ status: 204 });

  await create(overlay('b.qcow2'));
  expect(await vmm.put('vm.boot')).toMatchObject({ status: 204 });
  await vmm.put('vm.delete');
  await create({ path: backing });
  const writer = await vmm.put('vm.boot');

  expect(writer.status).toBe(409);
  expect(texts(writer)).toContain(`Failed to get Write lock for disk image: ${backing}`);
});
