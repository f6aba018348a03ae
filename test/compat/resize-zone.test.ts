/** Zones of memory over the API of a real process: vm.resize-zone, and what backs them. */
import { mkdirSync, readFileSync, truncateSync, writeFileSync } from 'node:fs';
import { afterAll, afterEach, beforeAll, expect, test } from 'vitest';
import { guestConfig } from './support/guests.ts';
import { type Answer, VmmProcess } from './support/vmm-process.ts';

const MIB = 1 << 20;

let vmm: VmmProcess;

beforeAll(async () => {
  vmm = await VmmProcess.start();
});

afterAll(() => vmm[Symbol.asyncDispose]());

afterEach(async () => {
  expect(await vmm.put('vm.delete')).toMatchObject({ status: 204 });
});

const Z0 = { id: 'z0', size: 64 * MIB };
const Z1 = { id: 'z1', size: 32 * MIB, hotplug_size: 512 * MIB };

async function boot(zones: object[] = [Z0, Z1]): Promise<Answer> {
  const memory = { size: 0, hotplug_method: 'VirtioMem', zones };
  const config = { ...guestConfig(vmm.folder), memory };
  expect(await vmm.put('vm.create', config)).toMatchObject({ status: 204 });
  return vmm.put('vm.boot');
}

const resizeZone = (id: string, desired_ram: number) =>
  vmm.put('vm.resize-zone', { id, desired_ram });
const texts = ({ body }: Answer) => body as string[];

interface Info {
  config: { memory: { zones: object[] } };
  memory_actual_size: number;
  device_tree: object;
}
const info = async (): Promise<Info> => (await vmm.get('vm.info')).body as Info;

test('a zone that may grow is a device, and gets the size that is wanted', async () => {
  expect(await boot()).toMatchObject({ status: 204 });

  expect(Object.keys((await info()).device_tree)).toContain('_virtio-pci-z1');
  expect(await resizeZone('z1', 288 * MIB)).toMatchObject({ status: 204 });
  expect(await vmm.put('vm.pause')).toMatchObject({ status: 204 });
  expect(await resizeZone('z1', 160 * MIB)).toMatchObject({ status: 204 });
  expect(await vmm.put('vm.reboot')).toMatchObject({ status: 204 });

  const { config, memory_actual_size } = await info();
  expect(config.memory.zones).toMatchObject([Z0, { ...Z1, hotplugged_size: 128 * MIB }]);
  expect(memory_actual_size).toBe(96 * MIB);
});

test.each([
  ['zz', MIB, 404, ['Failed resizing a memory zone'], 'id is zz: name one of memory.zones'],
  ['mem0', MIB, 404, ['Failed resizing a memory zone'], 'which are z0, z1'],
  [
    ...([
      'z0',
      128 * MIB,
      400,
      ['Memory manager error', 'No virtio-mem resizing handler found'],
    ] as const),
    'id is z0: create the VM with memory.hotplug_method VirtioMem',
  ],
  [
    ...(['z1', 31 * MIB, 400] as const),
    [
      'Memory manager error',
      `Invalid resize request: desired_size = ${31 * MIB} below boot size = ${32 * MIB}`,
    ],
    `give at least ${32 * MIB}`,
  ],
  [
    ...(['z1', 1024 * MIB, 400] as const),
    [
      'Memory manager error',
      'Failed to virtio-mem resize',
      'Resize invalid argument',
      'Failed to update virtio configuration: ResizeError(new size 0x3e000000 is bigger than ' +
        'region_size 0x20000000)',
    ],
    `give at most ${544 * MIB}, or more hotplug_size of zone z1`,
  ],
  [
    ...(['z1', 33 * MIB, 400] as const),
    [
      'Memory manager error',
      'Failed to virtio-mem resize',
      'Resize invalid argument',
      'Failed to update virtio configuration: ResizeError(new size 0x100000 is not aligned on ' +
        'block_size 0x200000)',
    ],
    'a multiple of 2097152 more',
  ],
])(
  'zone %s of %d bytes: %d, in the words that clients know',
  async (id, bytes, status, said, remedy) => {
    await boot();

    const answer = await resizeZone(id, bytes);

    expect(answer.status).toBe(status);
    const outermost = ['Error from API', 'The memory zone could not be resized'];
    expect(texts(answer).slice(0, -1)).toEqual([...outermost, ...said]);
    expect(texts(answer).at(-1)).toContain(remedy);
    expect((await info()).config.memory.zones[1]).not.toHaveProperty('hotplugged_size');
  },
);

test('RAM of zones is not resized as one', async () => {
  await boot();

  const answer = await vmm.put('vm.resize', { desired_ram: 256 * MIB });

  expect(answer.status).toBe(400);
  expect(texts(answer)[3]).toBe(
    'Impossible to resize guest memory if it is backed by user defined memory regions',
  );
  expect(texts(answer)[4]).toContain('use vm.resize-zone');
});

test('before the boot a zone becomes as large as is said', async () => {
  const memory = { size: 0, hotplug_method: 'VirtioMem', zones: [Z0, Z1] };
  await vmm.put('vm.create', { ...guestConfig(vmm.folder), memory });

  expect(await resizeZone('z0', 128 * MIB)).toMatchObject({ status: 204 });
  expect(await resizeZone('z0', 128 * MIB + 1)).toMatchObject({ status: 400 });

  expect((await info()).config.memory.zones[0]).toMatchObject({ size: 128 * MIB });
});

/** What /proc/PID/maps has of a file: permissions, offset, and length. */
function mappings(path: string) {
  const maps = readFileSync(`/proc/${vmm.pid}/maps`, 'utf8').split('\n');
  return maps
    .filter((line) => line.includes(path))
    .map((line) => {
      const [range = '', permissions, offset = ''] = line.split(/ +/);
      const [start = 0, end = 0] = range.split('-').map((at) => Number.parseInt(at, 16));
      return [permissions, Number.parseInt(offset, 16), end - start];
    });
}

test('zones lie in files of their own, shared or as a copy, or in a directory', async () => {
  const at = (name: string) => `${vmm.folder}/${name}`;
  for (const name of ['shared', 'copied']) {
    writeFileSync(at(name), '');
    truncateSync(at(name), 64 * MIB);
  }
  mkdirSync(at('dir'));
  const zone = (id: string, file: string, shared: boolean) => ({
    ...Z0,
    id,
    file: at(file),
    shared,
  });

  expect(
    await boot([zone('a', 'copied', false), zone('b', 'shared', true), zone('c', 'dir', false)]),
  ).toMatchObject({ status: 204 });

  expect(mappings(at('shared'))).toEqual([['rw-s', 0, 64 * MIB]]);
  expect(mappings(at('copied'))).toEqual([['rw-p', 0, 64 * MIB]]);
  expect(mappings(at('dir/'))).toEqual([['rw-s', 0, 64 * MIB]]);
  expect(readFileSync(at('copied')).every((byte) => byte === 0)).toBe(true);
});

test.each([
  ['too short a file', 'short', 'It has 4096 bytes'],
  ['a file that is not there', 'missing', 'ENOENT'],
])('%s: 400, and the config stays', async (_, name, reason) => {
  writeFileSync(`${vmm.folder}/short`, Buffer.alloc(4096));

  const answer = await boot([{ ...Z0, file: `${vmm.folder}/${name}`, shared: true }]);

  expect(answer.status).toBe(400);
  expect(texts(answer)[2]).toContain(`memory.zones[0].file is ${vmm.folder}/${name}, which cannot`);
  expect(texts(answer)[3]).toContain(reason);
  expect((await vmm.get('vm.info')).body).toMatchObject({ state: 'Created' });
});

test('a zone is of the NUMA node that is asked for, and only what it says is prefaulted', async () => {
  const bound = { ...Z0, size: 68 * MIB, host_numa_node: 0, prefault: true };

  expect(await boot([bound, { ...Z0, id: 'z2', size: 66 * MIB }])).toMatchObject({ status: 204 });

  const numa = readFileSync(`/proc/${vmm.pid}/numa_maps`, 'utf8').split('\n');
  const smaps = readFileSync(`/proc/${vmm.pid}/smaps`, 'utf8').split(/^(?=[0-9a-f]+-[0-9a-f]+ )/m);
  const mapping = (mib: number) => {
    const size = new RegExp(`^Size: +${mib * 1024} kB`, 'm');
    const text = smaps.find((text) => size.test(text));
    const start = text?.split('-')[0] ?? 'none';
    const rss = Number(/^Rss: +(\d+) kB/m.exec(text ?? '')?.[1]);
    return { policy: numa.find((line) => line.startsWith(start))?.split(' ')[1], rss };
  };
  expect(mapping(68)).toEqual({ policy: 'bind:0', rss: 68 * 1024 });
  const other = mapping(66);
  expect(other.policy).toBe('default');
  expect(other.rss).toBeLessThan(33 * 1024);
});
