/**
 * What clients get wrong about disks: each mistake has its status and a text that names field and
 * value, and afterwards the process answers, and a good VM boots.
 */
import { execFileSync } from 'node:child_process';
import {
  chmodSync,
  chownSync,
  copyFileSync,
  linkSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  rmSync,
  symlinkSync,
  truncateSync,
  writeFileSync,
} from 'node:fs';
import { join } from 'node:path';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from 'vitest';
import { guestConfig } from './support/guests.ts';
import { type Answer, VmmProcess } from './support/vmm-process.ts';

const MIB = 2 ** 20;
const TIB = 2 ** 40;

/** `nobody` of every distribution: it may not pass over modes. */
const NOBODY = 65_534;

let vmm: VmmProcess;

beforeAll(async () => {
  vmm = await VmmProcess.start();
});

afterAll(() => vmm[Symbol.asyncDispose]());

const at = (name: string) => join(vmm.folder, name);
const image = () => at('disk.img');

/** A file of zeros, or of what is given at its start. */
function file(path: string, sizeBytes: number, start: string | Uint8Array = ''): void {
  writeFileSync(path, start);
  truncateSync(path, sizeBytes);
}

beforeEach(() => {
  execFileSync('rm', ['-rf', image()]);
  file(image(), MIB);
});

/** Whatever a test did to it. */
afterEach(async () => {
  expect(await vmm.put('vm.delete')).toMatchObject({ status: 204 });
  expect(openFiles()).not.toContain(image());
  expect(await vmm.put('vm.create', guestConfig(vmm.folder))).toMatchObject({ status: 204 });
  expect(await vmm.put('vm.boot')).toMatchObject({ status: 204 });
  expect(await vmm.put('vm.delete')).toMatchObject({ status: 204 });
});

/** What the process has open. */
const openFiles = (): string[] =>
  execFileSync('ls', ['-l', `/proc/${vmm.pid}/fd`], { encoding: 'utf8' })
    .split('\n')
    .map((line) => line.split(' -> ')[1] ?? '');

const withDisks = (...disks: object[]) => ({ ...guestConfig(vmm.folder), disks });
const create = (disk: object = {}, process = vmm) =>
  process.put('vm.create', withDisks({ path: image(), ...disk }));
const texts = ({ body }: Answer) => body as string[];

/** The text that names field and value: the last, or the one before the host's own. */
const remedy = (answer: Answer): string =>
  texts(answer).findLast((text) => text.startsWith('disks[')) ?? texts(answer).join('\n');

describe('an image', () => {
  test.each<[string, () => void, string]>([
    ['that is missing', () => rmSync(image()), 'which is not there: name an image that exists'],
    ['that is a directory', () => mkdirSync(renewed()), 'a directory: name an image file'],
    [
      'that is a FIFO',
      () => execFileSync('mkfifo', [renewed()]),
      'a FIFO: name an image file or a block device',
    ],
    [
      'that is a character device',
      () => symlinkSync('/dev/null', renewed()),
      'neither a file nor a block device',
    ],
    ['of 0 bytes', () => truncateSync(image(), 0), 'which has 0 bytes: give 512'],
    ['of 511 bytes', () => truncateSync(image(), 511), 'which has 511 bytes: give 512'],
  ])('%s: 400 at vm.create', async (_name, make, text) => {
    make();

    const answer = await create();

    expect(answer.status).toBe(400);
    expect(texts(answer).slice(0, 3)).toEqual([
      'Error from API',
      'The VM could not be created',
      'Cannot open disk path',
    ]);
    expect(remedy(answer)).toContain(`disks[0].path is ${image()}`);
    expect(remedy(answer)).toContain(text);
  });

  /** Linux opens a FIFO for both directions without a wait, and a directory for reading. */
  test.each([
    ['a directory', 'mkdir'],
    ['a FIFO', 'mkfifo'],
  ])('that is %s, to be read only: 400', async (what, command) => {
    execFileSync(command, [renewed()]);

    const answer = await create({ readonly: true });

    expect(answer.status).toBe(400);
    expect(remedy(answer)).toContain(`disks[0].path is ${image()}, ${what}:`);
  });

  test('that is raw where the config says qcow2: 400', async () => {
    const answer = await create({ image_type: 'Qcow2' });

    expect(answer.status).toBe(400);
    expect(texts(answer)[2]).toBe(
      'Disk image type does not match expected type: specified = qcow2, detected = raw',
    );
    expect(remedy(answer)).toContain('disks[0].image_type is Qcow2');
  });

  test('of 2 TiB, sparse: taken', async () => {
    truncateSync(image(), 2 * TIB);

    expect(await create()).toMatchObject({ status: 204 });
  });

  test('that may not be read, or not written: 400, unless readonly is asked for', async () => {
    await using unprivileged = await VmmProcess.start({ id: NOBODY });
    const path = join(unprivileged.folder, 'root.img');
    file(path, MIB);
    // Without a kernel, for who may not open /dev/kvm either.
    const asked = (readonly: boolean) =>
      unprivileged.put('vm.create', { console: { mode: 'Off' }, disks: [{ path, readonly }] });
    chownSync(path, 0, 0);

    chmodSync(path, 0o444);
    const unwritable = await asked(false);
    const readable = await asked(true);
    await unprivileged.put('vm.delete');
    chmodSync(path, 0o000);
    const unreadable = await asked(true);

    expect([unwritable, readable, unreadable].map(({ status }) => status)).toEqual([400, 204, 400]);
    expect(remedy(unwritable)).toBe(
      `disks[0].path is ${path}, which may not be written: ` +
        'set readonly to true, or give the VMM the right to',
    );
    expect(texts(unwritable).at(-1)).toMatch(/^EACCES/);
    expect(remedy(unreadable)).toContain('which may not be read');
  });

  test('that is gone at the boot: 400, the config stays, and boots once it is back', async () => {
    expect(await create({ id: 'root' })).toMatchObject({ status: 204 });
    rmSync(image());

    const answer = await vmm.put('vm.boot');

    expect(answer.status).toBe(400);
    expect(texts(answer).slice(1, 3)).toEqual(['The VM could not boot', 'Cannot open disk path']);
    expect(texts(answer)[3]).toContain(`root.path is ${image()}, which is not there`);
    expect(await vmm.state()).toBe('Created');
    file(image(), MIB);
    expect(await vmm.put('vm.boot')).toMatchObject({ status: 204 });
  });

  test('that is the second of two and missing: both stay in the config', async () => {
    copyFileSync(image(), at('other.img'));
    await vmm.put('vm.create', withDisks({ path: image() }, { path: at('other.img') }));
    rmSync(at('other.img'));

    expect(await vmm.put('vm.boot')).toMatchObject({ status: 400 });

    const { body } = await vmm.get('vm.info');
    expect(body).toMatchObject({
      config: { disks: [{ path: image() }, { path: at('other.img') }] },
    });
    expect(openFiles()).not.toContain(image());
  });
});

describe('a value', () => {
  test.each<[string, object, string]>([
    ['no queues', { num_queues: 0 }, 'disks[0].num_queues is 0: give at least 1'],
    ['more queues than vCPUs', { num_queues: 2 }, 'disks[0].num_queues is 2: give at most'],
    ['queues of 0', { queue_size: 0 }, 'disks[0].queue_size is 0: give a power of two'],
    ['queues of 2', { queue_size: 2 }, 'disks[0].queue_size is 2: give at least 4'],
    ['queues of 3', { queue_size: 3 }, 'disks[0].queue_size is 3: give a power of two'],
    ['queues of 65536', { queue_size: 65_536 }, 'disks[0].queue_size is 65536'],
    ['a serial of 21 bytes', { serial: 'x'.repeat(21) }, 'disks[0].serial is 21 bytes long'],
    ['a serial of 11 letters in 22 bytes', { serial: 'ü'.repeat(11) }, 'serial is 22 bytes long'],
    ['an id of 256 bytes', { id: 'x'.repeat(256) }, 'give at most 255 bytes'],
    ['an id with a line end', { id: 'a\nb' }, 'A device has the id "a\\nb"'],
    ['an id of ours', { id: '__rng' }, 'A device has the id __rng'],
    ['no path', { path: null }, 'disks[0].path is missing'],
    ['an empty path', { path: '' }, 'disks[0].path is missing'],
    ['a path with a zero byte', { path: 'a\0b' }, 'disks[0].path is'],
    ['affinity to a CPU that is not there', affinity(0, 5000), 'host_cpus names 5000'],
    ['an image type that there is not', { image_type: 'Tar' }, 'disks[0].image_type is "Tar"'],
  ])('of %s: 400', async (_name, part, text) => {
    const answer = await create(part);

    expect(answer.status).toBe(400);
    expect(texts(answer).join('\n')).toContain(text);
  });

  test.each<[string, object]>([
    ['a slash and a letter beyond ASCII', { id: 'a/ü' }],
    ['a serial of 20 bytes', { serial: 'x'.repeat(20) }],
    ['queues of 32768', { queue_size: 32_768 }],
    ['affinity of a queue that is not there', affinity(3, 0)],
    ['limits of nothing', { rate_limiter_config: { bandwidth: { size: 0, refill_time: 0 } } }],
    ['direct I/O', { direct: true }],
  ])('of %s: boots', async (_name, part) => {
    expect(await create(part)).toMatchObject({ status: 204 });
    expect(await vmm.put('vm.boot')).toMatchObject({ status: 204 });
  });

  test('an id that two disks have: 409', async () => {
    copyFileSync(image(), at('other.img'));
    const both = [image(), at('other.img')].map((path) => ({ path, id: 'a' }));

    const answer = await vmm.put('vm.create', withDisks(...both));

    expect(answer.status).toBe(409);
    expect(texts(answer)).toContain('Identifier a is not unique');
  });
});

function affinity(queue_index: number, cpu: number) {
  return { queue_affinity: [{ queue_index, host_cpus: [cpu] }] };
}

describe('one image for two', () => {
  const LOCKED = [
    'Error locking disk images: Another instance likely holds a lock',
    'Cannot lock images of all block devices',
  ];

  test.each([
    [false, false, 409],
    [false, true, 409],
    [true, false, 409],
    [true, true, 204],
  ])('disks by one path, readonly %s and %s: %i', async (first, second, status) => {
    const path = image();
    const answer = await vmm.put(
      'vm.create',
      withDisks({ path, readonly: first }, { path, readonly: second }),
    );

    expect(answer.status).toBe(status);
    if (status === 409) expect(texts(answer)).toContain('The file is already locked');
    else expect(await vmm.put('vm.boot')).toMatchObject({ status: 204 });
  });

  test('disks by two names: 409 at vm.boot, and nothing is left locked', async () => {
    rmSync(at('alias.img'), { force: true });
    linkSync(image(), at('alias.img'));
    await vmm.put('vm.create', withDisks({ path: image() }, { path: at('alias.img') }));

    const answer = await vmm.put('vm.boot');

    expect(answer.status).toBe(409);
    expect(texts(answer).slice(2, 6)).toEqual([
      ...LOCKED,
      `Failed to get Write lock for disk image: ${at('alias.img')}`,
      'The file is already locked',
    ]);
    expect(texts(answer)[6]).toContain(`_disk1.path is ${at('alias.img')}`);
  });

  test.each(['ByteRange', 'Full'])('VMs, lock_granularity %s: 409 while it runs', async (lock) => {
    await using other = await VmmProcess.start();
    const mine = { lock_granularity: lock };
    await create(mine, other);
    expect(await other.put('vm.boot')).toMatchObject({ status: 204 });

    expect(await create(mine)).toMatchObject({ status: 204 });
    const refused = await vmm.put('vm.boot');
    await other.put('vm.shutdown');
    const taken = await vmm.put('vm.boot');

    expect(refused.status).toBe(409);
    expect(texts(refused)).toEqual(
      expect.arrayContaining([...LOCKED, 'The file is already locked']),
    );
    expect(taken).toMatchObject({ status: 204 });
  });

  test('VMs that only read: both boot', async () => {
    await using other = await VmmProcess.start();

    for (const process of [vmm, other]) {
      await create({ readonly: true }, process);
      expect(await process.put('vm.boot')).toMatchObject({ status: 204 });
    }
  });

  test('a reboot locks it anew, whatever the kernel still does with the old file', async () => {
    await create();
    await vmm.put('vm.boot');

    for (let i = 0; i < 10; i++) expect(await vmm.put('vm.reboot')).toMatchObject({ status: 204 });
  });
});

describe('vm.info', () => {
  const disks = async () => {
    const { body } = await vmm.get('vm.info');
    return (body as { config: { disks: Record<string, unknown>[] } }).config.disks;
  };

  test('tells in the dialect of today which type the image was found to be, and its id', async () => {
    await create();
    expect(await disks()).toMatchObject([{ image_type: 'Unknown' }]);

    await vmm.put('vm.boot');
    expect(await disks()).toMatchObject([{ id: '_disk0', image_type: 'Raw', sparse: true }]);
    expect((await disks())[0]).not.toHaveProperty('wce');

    await vmm.put('vm.shutdown');
    expect(await disks()).toMatchObject([{ id: '_disk0', image_type: 'Raw' }]);
  });

  test('tells in the dialect of 2020 what there was then, wce and poll_queue too', async () => {
    const { payload, ...config } = guestConfig(vmm.folder);
    const seed = { ...config, kernel: { path: payload.kernel }, cmdline: { args: '' } };
    const disk = { path: image(), wce: false, poll_queue: false };
    expect(await vmm.put('vm.create', { ...seed, disks: [disk] })).toMatchObject({ status: 204 });
    expect(await vmm.put('vm.boot')).toMatchObject({ status: 204 });

    expect(await disks()).toEqual([
      {
        ...disk,
        ...{ readonly: false, direct: false, iommu: false, num_queues: 1, queue_size: 128 },
        ...{ vhost_user: false, vhost_socket: null },
      },
    ]);
  });
});

test('20 disks, booted and deleted 20 times: no file, no thread and no mapping stays', async () => {
  const paths = Array.from({ length: 20 }, (_, i) => at(`many-${i}`));
  for (const path of paths) file(path, MIB);
  const count = (what: string) => readdirSync(`/proc/${vmm.pid}/${what}`).length;
  // V8 maps and unmaps its own heap as it likes, without a name.
  const mappings = () => readFileSync(`/proc/${vmm.pid}/maps`, 'utf8').match(/ \/.*$/gm)?.length;
  const counts = () => ({ fds: count('fd'), threads: count('task'), mappings: mappings() });
  const round = async () => {
    await vmm.put('vm.create', withDisks(...paths.map((path) => ({ path }))));
    expect(await vmm.put('vm.boot')).toMatchObject({ status: 204 });
    await vmm.put('vm.delete');
  };
  await round();
  const before = counts();

  for (let i = 0; i < 20; i++) await round();

  const after = counts();
  expect(after.fds).toBeLessThan(before.fds + paths.length);
  expect(after.threads).toBeLessThanOrEqual(before.threads);
  expect(after.mappings).toBe(before.mappings);
});

/** The path of the image, with nothing there. */
function renewed(): string {
  rmSync(image());
  return image();
}
