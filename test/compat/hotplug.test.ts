/** Devices that come and go while a guest runs, and what is answered when they cannot. */
import { closeSync, openSync, readFileSync, statSync, truncateSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from 'vitest';
import { native } from '../../src/native.ts';
import { bareGuest } from '../support/bare-guest.ts';
import { tapFiles } from '../support/tap-exec.ts';
import { guestConfig } from './support/guests.ts';
import { countsOf, holdings, leastOf, openPaths, settledHoldings } from './support/holdings.ts';
import { type Answer, parseAnswer, requestText, VmmProcess } from './support/vmm-process.ts';

const WAIT_MS_MAX = 8000;
/** Until all code that it takes is compiled. */
const WARM_UP_CYCLES = 60;
const CYCLES = 100;
const GROWTH_KIB_MAX = 1024;

let vmm: VmmProcess;

beforeAll(async () => {
  vmm = await VmmProcess.start();
});

afterAll(() => vmm[Symbol.asyncDispose]());

const file = (name: string, sizeBytes = 4096): string => {
  const path = join(vmm.folder, name);
  writeFileSync(path, '');
  truncateSync(path, sizeBytes);
  return path;
};

interface Info {
  config: Record<string, { id: string; file?: string; path?: string }[] | undefined>;
  device_tree?: Record<string, { pci_bdf?: string }>;
}
const info = async (): Promise<Info> => (await vmm.get('vm.info')).body as Info;

async function until(what: string, holds: () => boolean | Promise<boolean>): Promise<void> {
  for (const end = Date.now() + WAIT_MS_MAX; Date.now() < end; ) {
    if (await holds()) return;
    await new Promise((resolve) => setTimeout(resolve, 5));
  }
  throw new Error(`Not within ${WAIT_MS_MAX} ms: ${what}`);
}

const gone = (id: string) => until(`${id} is gone`, async () => !(await info()).device_tree?.[id]);

const serial = (): string => readFileSync(join(vmm.folder, 'serial'), 'utf8');

/** A guest that lets go of what it is asked for; its RAM is its own. */
const plugConfig = (more: object = {}) => ({
  ...guestConfig(vmm.folder),
  payload: { kernel: bareGuest('plug') },
  cpus: { boot_vcpus: 1, max_vcpus: 1, max_phys_bits: 36 },
  ...more,
});

async function boot(config: object): Promise<void> {
  expect(await vmm.put('vm.delete')).toMatchObject({ status: 204 });
  expect(await vmm.put('vm.create', config)).toMatchObject({ status: 204 });
  expect(await vmm.put('vm.boot')).toMatchObject({ status: 204 });
}

const bootPlug = async (more?: object) => {
  await boot(plugConfig(more));
  await until('the guest is ready', () => serial().includes('ready'));
};

const texts = ({ body }: Answer): string => String(body);

describe('a guest that lets go of what it is asked for', () => {
  beforeEach(() => bootPlug());

  test.each([
    ['disk', () => ({ path: file('d') }), 'disks', '_disk0', '10421af4'],
    ['net', () => ({}), 'net', '_net0', '10411af4'],
    ['pmem', () => ({ file: file('p', 2 << 20) }), 'pmem', '_pmem0', '105b1af4'],
    ['vsock', () => ({ cid: 3, socket: join(vmm.folder, 'v') }), 'vsock', '_vsock0', '10531af4'],
  ])(
    '%s: is where the answer says, goes, and comes again',
    async (kind, body, field, id, found) => {
      const added = await vmm.put(`vm.add-${kind}`, body());
      expect(added).toMatchObject({ status: 200, body: { id, bdf: '0000:00:02.0' } });
      await until('the guest sees it', () => serial().includes(`slot 2 has ${found}`));
      const { config, device_tree } = await info();
      expect([config[field]].flat()).toMatchObject([{ id }]);
      expect(device_tree?.[`_virtio-pci-${id}`]?.pci_bdf).toBe('0000:00:02.0');

      expect(await vmm.put('vm.remove-device', { id })).toMatchObject({ status: 204 });
      await gone(id);
      expect(await vmm.put('vm.remove-device', { id })).toMatchObject({ status: 404 });

      const again = await vmm.put(`vm.add-${kind}`, { ...body(), id: 'ünter "x"' });
      expect(again).toMatchObject({ status: 200, body: { bdf: '0000:00:02.0' } });
      expect(await vmm.put('vm.remove-device', { id: 'ünter "x"' })).toMatchObject({ status: 204 });
      await gone('ünter "x"');
    },
  );

  test('a disk reads as it should each time that it comes, at any size', {
    timeout: 120_000,
  }, async () => {
    const path = file('d');
    const sizes = [1 << 20, 3 << 20];
    for (let round = 1; round <= 20; round++) {
      writeFileSync(path, Buffer.alloc(sizes[0] ?? 0, round));
      const heard = serial().length;
      const says = (bytes = 0, sum = 0) =>
        until('the guest has read it', () =>
          serial().includes(`slot 2 reads ${bytes / 512} sectors, sum ${sum}, failed 0\n`, heard),
        );
      expect(await vmm.put('vm.add-disk', { path, id: 'x' })).toMatchObject({ status: 200 });
      const sum = (round * (sizes[0] ?? 0)) / 512;
      await says(sizes[0], sum);
      const resized = { id: 'x', desired_size: sizes[1] };
      expect(await vmm.put('vm.resize-disk', resized)).toMatchObject({ status: 204 });
      await says(sizes[1], sum);
      expect(await vmm.put('vm.remove-device', { id: 'x' })).toMatchObject({ status: 204 });
      await gone('x');
    }
  });

  test('a failed add of each kind takes nothing, good ones follow, and RAM', async () => {
    await bootPlug({ memory: { size: 64 << 20, hotplug_size: 128 << 20 } });
    const fails: [string, object][] = [
      ['disk', { path: join(vmm.folder, 'none') }],
      ['net', { tap: 'no/name' }],
      ['pmem', { file: join(vmm.folder, 'none') }],
      ['vsock', { cid: 3, socket: join(vmm.folder, 'none/v') }],
      ['fs', { tag: 't', socket: join(vmm.folder, 'none') }],
      ['generic-vhost-user', { socket: 's', queue_sizes: [64], device_type: 26 }],
      ['device', { path: '/sys/bus/pci/devices/0000:00:02.0' }],
      ['user-device', { socket: 's' }],
      ['vdpa', { path: '/dev/vhost-vdpa-0' }],
    ];
    const before = JSON.stringify(await info());
    for (const [kind, body] of fails) {
      const { status } = await vmm.put(`vm.add-${kind}`, body);
      expect([kind, status]).toEqual([kind, 400]);
    }
    expect(JSON.stringify(await info())).toBe(before);
    const good: [string, object][] = [
      ['disk', { path: file('d') }],
      ['net', {}],
      ['pmem', { file: file('p', 2 << 20) }],
      ['vsock', { cid: 3, socket: join(vmm.folder, 'v') }],
    ];
    for (const [n, [kind, body]] of good.entries())
      expect(await vmm.put(`vm.add-${kind}`, body)).toMatchObject({
        status: 200,
        body: { id: `_${kind}${n}`, bdf: `0000:00:0${n + 2}.0` },
      });
    expect(await vmm.put('vm.resize', { desired_ram: 192 << 20 })).toMatchObject({ status: 204 });
    expect(await info()).toMatchObject({ memory_actual_size: 192 << 20 });
  });

  test('what is there twice is a conflict', async () => {
    const path = file('d');
    expect(await vmm.put('vm.add-disk', { path, id: 'a' })).toMatchObject({ status: 200 });
    const other = { path: file('e'), id: 'a' };
    expect(texts(await vmm.put('vm.add-disk', other))).toContain('Identifier a is not unique');
    for (const twice of [other, { path }, { path: file('e'), pci_device_id: 2 }])
      expect(await vmm.put('vm.add-disk', twice)).toMatchObject({ status: 409 });
  });

  test('of two at once that want the same id one gets it', async () => {
    const bodies = ['a', 'b'].map((name) => ({ path: file(name), id: 'x' }));
    const answers = await Promise.all(bodies.map((body) => vmm.put('vm.add-disk', body)));
    expect(answers.map(({ status }) => status).sort()).toEqual([200, 409]);
    expect((await info()).config['disks']).toHaveLength(1);
  });

  test.each([
    ['before', ['vm.add-disk', 'vm.reboot']],
    ['after', ['vm.reboot', 'vm.add-disk']],
  ])('an add just %s a reboot is in the VM that comes of it', async (_when, verbs) => {
    writeFileSync(join(vmm.folder, 'serial'), '');
    const path = file('d');
    const answers = await Promise.all(
      verbs.map((verb) => vmm.put(verb, verb === 'vm.reboot' ? undefined : { path, id: 'x' })),
    );
    expect(answers.map(({ status }) => status).sort()).toEqual([200, 204]);
    await until('the guest is ready again', () => serial().includes('ready'));
    expect(Object.keys((await info()).device_tree ?? {})).toContain('x');
    expect(await vmm.put('vm.remove-device', { id: 'x' })).toMatchObject({ status: 204 });
    await gone('x');
  });

  test('two at once get a slot each', async () => {
    const [a, b] = [file('a'), file('b')];
    const answers = await Promise.all([a, b].map((path) => vmm.put('vm.add-disk', { path })));
    expect(answers.map(({ body }) => body)).toEqual(
      expect.arrayContaining([
        { id: '_disk0', bdf: '0000:00:02.0' },
        { id: '_disk1', bdf: '0000:00:03.0' },
      ]),
    );
  });

  test('the 32nd device finds no slot', async () => {
    for (let n = 2; n < 32; n++) {
      const { status } = await vmm.put('vm.add-disk', { path: file(`d${n}`) });
      expect([n, status]).toEqual([n, 200]);
    }
    const full = await vmm.put('vm.add-disk', { path: file('d32') });
    expect(full.status).toBe(400);
    expect(texts(full)).toContain('Could not find an available device slot on the PCI bus');
  });

  test('a hundred cycles of each kind leave nothing behind', { timeout: 240_000 }, async () => {
    const path = file('d');
    const image = file('p', 2 << 20);
    const bodies: [string, object][] = [
      ['disk', { path, id: 'x' }],
      ['net', { id: 'x' }],
      ['pmem', { file: image, id: 'x' }],
      ['vsock', { cid: 3, socket: join(vmm.folder, 'v'), id: 'x' }],
    ];
    const cycle = async () => {
      for (const [kind, body] of bodies) {
        expect(await vmm.put(`vm.add-${kind}`, body)).toMatchObject({ status: 200 });
        expect(await vmm.put('vm.remove-device', { id: 'x' })).toMatchObject({ status: 204 });
        await gone('x');
      }
    };
    for (let n = 0; n < WARM_UP_CYCLES; n++) await cycle();
    const before = await settledHoldings(vmm.pid);
    for (let n = 0; n < CYCLES; n++) await cycle();
    const after = [await settledHoldings(vmm.pid)];
    const grownKib = () => leastOf(after).privateKib - before.privateKib;
    for (let tries = 0; tries < 5 && grownKib() >= GROWTH_KIB_MAX; tries++) {
      await cycle();
      after.push(await settledHoldings(vmm.pid));
    }
    expect(countsOf(leastOf(after))).toEqual(countsOf(before));
    expect(grownKib()).toBeLessThan(GROWTH_KIB_MAX);
  });

  test('a reboot keeps what was added and drops what was removed', async () => {
    for (const id of ['a', 'b'])
      expect(await vmm.put('vm.add-disk', { path: file(id), id })).toMatchObject({ status: 200 });
    expect(await vmm.put('vm.remove-device', { id: 'a' })).toMatchObject({ status: 204 });
    await gone('a');
    expect(await vmm.put('vm.reboot')).toMatchObject({ status: 204 });
    const { config, device_tree } = await info();
    expect(config['disks']?.map(({ id }) => id)).toEqual(['b']);
    expect(Object.keys(device_tree ?? {})).toContain('_virtio-pci-b');
  });

  test('in a pause devices come and go, and the guest hears of it after', async () => {
    expect(await vmm.put('vm.pause')).toMatchObject({ status: 204 });
    expect(await vmm.put('vm.add-disk', { path: file('d'), id: 'a' })).toMatchObject({
      status: 200,
    });
    expect(await vmm.put('vm.remove-device', { id: 'a' })).toMatchObject({ status: 204 });
    expect(Object.keys((await info()).device_tree ?? {})).toContain('a');
    expect(await vmm.put('vm.resume')).toMatchObject({ status: 204 });
    await gone('a');
  });
});

describe('a network card whose tap somebody else has opened', () => {
  /** Sends a request with files. */
  const putNet = (body: object, fds: readonly number[]): Promise<Answer> =>
    new Promise((resolve) => {
      const into = new Uint8Array(4096);
      let text = '';
      const socket = new native.FdSocket(native.unixStreams.connect(vmm.socket), {
        ...{ into, onEnd: () => socket.end(), onDrain: () => {} },
        onData: (sizeBytes) => {
          text += Buffer.from(into.subarray(0, sizeBytes)).toString('latin1');
          socket.end();
        },
        onClose: () => resolve(parseAnswer(text)),
      });
      socket.sendFds(Buffer.from(requestText('PUT', '/api/v1/vm.add-net', body)), fds);
    });

  const open = () => holdings(vmm.pid).fds;
  /** Sockets of requests before come and go meanwhile. */
  const openTaps = () => openPaths(vmm.pid).filter((path) => path === '/dev/net/tun').length;

  let taps: number[] = [];
  beforeEach(async () => {
    taps = await tapFiles(2);
    await bootPlug({ cpus: { boot_vcpus: 2, max_vcpus: 2, max_phys_bits: 36 } });
  });
  afterEach(() => {
    for (const fd of taps) closeSync(fd);
  });

  test('is added, outlives a reboot, and its files are closed with it', async () => {
    const before = open();
    const added = await putNet({ id: 'n', num_queues: 4 }, taps);
    expect(added).toMatchObject({ status: 200, body: { id: 'n', bdf: '0000:00:02.0' } });
    expect((await info()).config['net']).toMatchObject([
      { fds: [expect.any(Number), expect.any(Number)] },
    ]);
    expect(await vmm.put('vm.reboot')).toMatchObject({ status: 204 });
    await until('the guest is ready again', () => serial().includes('ready'));
    expect(await vmm.put('vm.remove-device', { id: 'n' })).toMatchObject({ status: 204 });
    await gone('n');
    await until('its files are closed', () => open() <= before);
  });

  test('is part of the config before a boot, and goes with it', async () => {
    await vmm.put('vm.delete');
    await vmm.put('vm.create', plugConfig());
    expect(await putNet({}, taps.slice(0, 1))).toMatchObject({ status: 204 });
    expect(openTaps()).toBe(1);
    expect(await vmm.put('vm.boot')).toMatchObject({ status: 204 });
    expect(await vmm.put('vm.delete')).toMatchObject({ status: 204 });
    await until('its files are closed', () => openTaps() === 0);
  });

  test('needs a file for each pair, and each of a tap; others are closed', async () => {
    const before = [open(), JSON.stringify(await info())];
    const wrong = await putNet({ num_queues: 2 }, taps);
    expect([wrong.status, texts(wrong)]).toEqual([
      400,
      expect.stringContaining('does not match the number of FDs (4)'),
    ]);
    const noTap = openSync(file('d'), 'r+');
    expect(await putNet({}, [noTap])).toMatchObject({ status: 400 });
    closeSync(noTap);
    await until('as much is open', async () => open() === before[0]);
    expect(JSON.stringify(await info())).toBe(before[1]);
  });
});

describe('a disk gets another size', () => {
  beforeEach(() => bootPlug());

  test('larger, smaller, running and paused; its file has it', async () => {
    const path = file('d', 1 << 20);
    expect(await vmm.put('vm.add-disk', { path, id: 'd' })).toMatchObject({ status: 200 });
    for (const [verb, desired_size] of [
      ['vm.pause', 4 << 20],
      ['vm.resume', 512],
    ] as const) {
      expect(await vmm.put(verb)).toMatchObject({ status: 204 });
      const answer = await vmm.put('vm.resize-disk', { id: 'd', desired_size });
      expect(answer).toMatchObject({ status: 204 });
      expect(statSync(path).size).toBe(desired_size);
    }
  });

  test.each([
    ['none', { id: 'd', desired_size: 0 }, 400, 'desired_size is 0'],
    ['part of a sector', { id: 'd', desired_size: 1000 }, 400, 'not a multiple of 512'],
    ['of a disk that is not there', { id: 'x', desired_size: 512 }, 404, 'identifier: x'],
    ['of what is no disk', { id: '__rng', desired_size: 512 }, 404, 'identifier: __rng'],
  ])('%s is refused, and nothing changes', async (_, body, status, text) => {
    const path = file('d', 1 << 20);
    expect(await vmm.put('vm.add-disk', { path, id: 'd' })).toMatchObject({ status: 200 });
    const answer = await vmm.put('vm.resize-disk', body);
    expect([answer.status, texts(answer)]).toEqual([status, expect.stringContaining(text)]);
    expect(statSync(path).size).toBe(1 << 20);
  });
});

describe('a guest that never lets go', () => {
  beforeEach(() => boot(guestConfig(vmm.folder)));

  test('a removal can be asked for again, is seen, and a reboot completes it', async () => {
    const path = file('d');
    expect(await vmm.put('vm.add-disk', { path, id: 'a' })).toMatchObject({ status: 200 });
    for (let n = 0; n < 2; n++)
      expect(await vmm.put('vm.remove-device', { id: 'a' })).toMatchObject({ status: 204 });
    const { config, device_tree } = await info();
    expect([config['disks'], Object.keys(device_tree ?? {})]).toEqual([
      [],
      expect.arrayContaining(['a', '_virtio-pci-a']),
    ]);
    const again = await vmm.put('vm.add-disk', { path: file('e'), id: 'a' });
    expect([again.status, texts(again)]).toEqual([409, expect.stringContaining('let go')]);

    expect(await vmm.put('vm.reboot')).toMatchObject({ status: 204 });
    await gone('a');
    expect(await vmm.put('vm.add-disk', { path, id: 'a' })).toMatchObject({ status: 200 });
  });

  test.each(['rng', 'console', 'balloon', 'watchdog', 'iommu'])(
    '%s, of which there is one, stays',
    async (kind) => {
      await boot({
        ...guestConfig(vmm.folder),
        ...{ console: { mode: 'Null' }, balloon: { size: 0 }, watchdog: true },
        platform: { num_pci_segments: 2, iommu_segments: [1] },
      });
      const refused = await vmm.put('vm.remove-device', { id: `__${kind}` });
      expect([refused.status, texts(refused)]).toEqual([
        400,
        expect.stringContaining(`Not allowed to remove this type of device from the VM: ${kind}`),
      ]);
    },
  );

  test('while a backend is waited for, the API answers others', async () => {
    await boot({ ...guestConfig(vmm.folder), memory: { size: 64 << 20, shared: true } });
    const adding = vmm.put('vm.add-fs', { tag: 't', socket: join(vmm.folder, 'none') });
    const started = Date.now();
    expect(await vmm.get('vm.info')).toMatchObject({ status: 200 });
    expect(Date.now() - started).toBeLessThan(2000);
    expect(await adding).toMatchObject({ status: 400 });
  });
});

describe('a VM that is not booted', () => {
  beforeEach(async () => {
    await vmm.put('vm.delete');
    await vmm.put('vm.create', guestConfig(vmm.folder));
  });

  test('an add becomes part of its config, and a removal takes it out', async () => {
    const body = { path: file('d'), id: 'q' };
    expect(await vmm.put('vm.add-disk', body)).toMatchObject({ status: 204 });
    expect((await info()).config['disks']).toMatchObject([body]);
    expect(await vmm.put('vm.boot')).toMatchObject({ status: 204 });
    expect((await info()).config['disks']).toMatchObject([body]);
    expect(await vmm.put('vm.shutdown')).toMatchObject({ status: 204 });
    expect(await vmm.put('vm.remove-device', { id: 'q' })).toMatchObject({ status: 204 });
    expect((await info()).config['disks']).toEqual([]);
    const unknown = await vmm.put('vm.remove-device', { id: 'q' });
    expect([unknown.status, texts(unknown)]).toEqual([
      404,
      expect.stringContaining('No device with id "q" to remove'),
    ]);
  });

  test('what would not boot is refused, and nothing is changed', async () => {
    const before = JSON.stringify(await info());
    const fs = await vmm.put('vm.add-fs', { tag: 't', socket: 's' });
    expect(texts(fs)).toContain('Using vhost-user requires using shared memory or huge pages');
    for (const [kind, body] of [
      ['disk', { path: join(vmm.folder, 'none') }],
      ['net', { num_queues: 3 }],
      ['disk', {}],
    ] as const)
      expect(await vmm.put(`vm.add-${kind}`, body)).toMatchObject({ status: 400 });
    expect(JSON.stringify(await info())).toBe(before);
  });
});
