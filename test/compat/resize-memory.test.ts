/** vm.resize of memory over the API of a real process: what it answers, and what vm.info says. */
import { afterAll, afterEach, beforeAll, expect, test } from 'vitest';
import { guestConfig } from './support/guests.ts';
import { type Answer, VmmProcess } from './support/vmm-process.ts';

const MIB = 1 << 20;
const RAM_BYTES = 64 * MIB;

let vmm: VmmProcess;

beforeAll(async () => {
  vmm = await VmmProcess.start();
});

afterAll(() => vmm[Symbol.asyncDispose]());

afterEach(async () => {
  expect(await vmm.put('vm.delete')).toMatchObject({ status: 204 });
});

const create = (settings: object) =>
  vmm.put('vm.create', { ...guestConfig(vmm.folder), ...settings });

async function boot(settings: object = {}): Promise<void> {
  expect(await create(settings)).toMatchObject({ status: 204 });
  expect(await vmm.put('vm.boot')).toMatchObject({ status: 204 });
}

const resize = (body: object) => vmm.put('vm.resize', body);
const texts = ({ body }: Answer) => body as string[];

interface Info {
  config: { memory: { size: number }; balloon?: { size: number } };
  memory_actual_size: number;
  device_tree: object;
}
const info = async (): Promise<Info> => (await vmm.get('vm.info')).body as Info;

test('a balloon gets the size that is wanted, running or paused', async () => {
  await boot({ balloon: { size: 0 } });

  expect(await resize({ desired_balloon: 16 * MIB })).toMatchObject({ status: 204 });
  expect((await info()).config.balloon?.size).toBe(16 * MIB);
  expect(await vmm.put('vm.pause')).toMatchObject({ status: 204 });
  expect(await resize({ desired_balloon: 0 })).toMatchObject({ status: 204 });

  const { config, memory_actual_size } = await info();
  expect(config.balloon?.size).toBe(0);
  expect(memory_actual_size).toBe(RAM_BYTES);
});

test.each([RAM_BYTES, RAM_BYTES + 1, 8 * 2 ** 30])('a balloon of %d: 400', async (size) => {
  await boot({ balloon: { size: 4096 } });

  const answer = await resize({ desired_balloon: size });

  expect(answer.status).toBe(400);
  expect(texts(answer).slice(0, 2)).toEqual(['Error from API', 'The VM could not be resized']);
  expect(texts(answer)[3]).toContain(`Balloon size (${size}) greater than RAM (${RAM_BYTES})`);
  expect(texts(answer)[4]).toContain(`desired_balloon is ${size}`);
  expect((await info()).config.balloon?.size).toBe(4096);
});

test('without a balloon: 400, in the words that clients know', async () => {
  await boot();

  const answer = await resize({ desired_balloon: MIB });

  expect(answer.status).toBe(400);
  expect(texts(answer).slice(0, 4)).toEqual([
    'Error from API',
    'The VM could not be resized',
    'Error from device manager',
    "Missing virtio-balloon, can't proceed as expected",
  ]);
  expect(texts(answer)[4]).toContain('create the VM with a balloon');
});

const HOTPLUG = { size: RAM_BYTES, hotplug_size: 1024 * MIB };
const SECTION = 128 * MIB;

test('RAM grows by sections, running or paused, and a reboot keeps what it has', async () => {
  await boot({ memory: HOTPLUG });

  expect(await resize({ desired_ram: RAM_BYTES + SECTION })).toMatchObject({ status: 204 });
  expect(await resize({ desired_ram: RAM_BYTES + SECTION })).toMatchObject({ status: 204 });
  expect((await info()).memory_actual_size).toBe(RAM_BYTES + SECTION);
  expect(await vmm.put('vm.pause')).toMatchObject({ status: 204 });
  expect(await resize({ desired_ram: RAM_BYTES + 8 * SECTION })).toMatchObject({ status: 204 });
  expect(await vmm.put('vm.resume')).toMatchObject({ status: 204 });
  expect(await vmm.put('vm.reboot')).toMatchObject({ status: 204 });

  const { config, memory_actual_size } = await info();
  expect(config.memory.size).toBe(RAM_BYTES + 8 * SECTION);
  expect(memory_actual_size).toBe(RAM_BYTES + 8 * SECTION);
});

test('less RAM than there is comes with the next boot', async () => {
  await boot({ memory: HOTPLUG });
  await resize({ desired_ram: RAM_BYTES + 2 * SECTION });

  expect(await resize({ desired_ram: RAM_BYTES + SECTION })).toMatchObject({ status: 204 });

  expect(await info()).toMatchObject({
    config: { memory: { size: RAM_BYTES + SECTION } },
    memory_actual_size: RAM_BYTES + 2 * SECTION,
  });
});

test.each([
  [0, 'below boot size = 67108864', 'give at least 67108864'],
  [RAM_BYTES - 1, 'below boot size', 'give at least 67108864'],
  [RAM_BYTES + 1, 'is not a valid size', 'give 67108864 and a multiple of 134217728'],
  [RAM_BYTES + SECTION - 4096, 'is not a valid size', 'a multiple of 134217728'],
  [RAM_BYTES + 9 * SECTION, 'Not enough space in the hotplug', 'give at most 1140850688'],
  [2 ** 50 + RAM_BYTES, 'Not enough space in the hotplug', 'give at most 1140850688'],
])('%d bytes of RAM: 400 with field, value and remedy', async (size, text, remedy) => {
  await boot({ memory: HOTPLUG });

  const answer = await resize({ desired_ram: size });

  expect(answer.status).toBe(400);
  expect(texts(answer).slice(1, 3)).toEqual([
    'The VM could not be resized',
    'Memory manager error',
  ]);
  expect(texts(answer)[3]).toContain(text);
  expect(texts(answer)[4]).toContain(`desired_ram is ${size}: `);
  expect(texts(answer)[4]).toContain(remedy);
  expect(await info()).toMatchObject({
    config: { memory: { size: RAM_BYTES } },
    memory_actual_size: RAM_BYTES,
  });
  expect(await resize({ desired_ram: RAM_BYTES + SECTION })).toMatchObject({ status: 204 });
});

test('after eight additions no slot is left until a reboot', async () => {
  await boot({ memory: { ...HOTPLUG, hotplug_size: 2048 * MIB } });
  for (let i = 1; i <= 8; i++)
    expect(await resize({ desired_ram: RAM_BYTES + i * SECTION })).toMatchObject({ status: 204 });

  const answer = await resize({ desired_ram: RAM_BYTES + 9 * SECTION });

  expect(answer.status).toBe(400);
  expect(texts(answer)[3]).toBe('No memory slot is left');
  expect(await vmm.put('vm.reboot')).toMatchObject({ status: 204 });
  expect(await resize({ desired_ram: RAM_BYTES + 9 * SECTION })).toMatchObject({ status: 204 });
});

test('hotplug_size far above what the host has costs nothing, and a boot is as quick', async () => {
  await boot({ memory: { ...HOTPLUG, hotplug_size: 2 ** 38 } });

  expect(await resize({ desired_ram: RAM_BYTES + SECTION })).toMatchObject({ status: 204 });
});

const BLOCKS = { ...HOTPLUG, hotplug_method: 'VirtioMem' };

test('by virtio-mem the wish is told at once, and the fact when the guest has done it', async () => {
  await boot({ memory: BLOCKS });

  expect(await resize({ desired_ram: RAM_BYTES + 512 * MIB })).toMatchObject({ status: 204 });
  expect(await resize({ desired_ram: RAM_BYTES + 2 * MIB })).toMatchObject({ status: 204 });

  const told = await info();
  expect(told.config.memory).toMatchObject({ size: RAM_BYTES, hotplugged_size: 2 * MIB });
  expect(told.memory_actual_size).toBe(RAM_BYTES);
  expect(Object.keys(told.device_tree)).toContain('_virtio-pci-mem0');
  expect(await vmm.put('vm.reboot')).toMatchObject({ status: 204 });
  expect((await info()).config.memory).toMatchObject({ hotplugged_size: 2 * MIB });
});

test.each([
  [RAM_BYTES - 1, ['Invalid resize request: desired_size = 67108863 below boot size'], 'at least'],
  [
    RAM_BYTES + 2048 * MIB,
    ['Failed to virtio-mem resize', 'Resize invalid argument', 'new size 0x80000000 is bigger'],
    'give at most 1140850688',
  ],
  [
    RAM_BYTES + 4096,
    ['Failed to virtio-mem resize', 'Resize invalid argument', 'is not aligned on block_size'],
    'a multiple of 2097152 more',
  ],
])('by virtio-mem, %d bytes of RAM: 400', async (size, [first = '', ...more], remedy) => {
  await boot({ memory: BLOCKS });

  const answer = await resize({ desired_ram: size });

  expect(answer.status).toBe(400);
  expect(texts(answer)[2]).toBe('Memory manager error');
  for (const [i, text] of [first, ...more].entries()) expect(texts(answer)[3 + i]).toContain(text);
  expect(texts(answer).at(-1)).toContain(`desired_ram is ${size}: give`);
  expect(texts(answer).at(-1)).toContain(remedy);
  expect((await info()).config.memory).not.toHaveProperty('hotplugged_size');
});

test('hotplugged_size is asked for from the start, in whole blocks', async () => {
  const answer = await create({ memory: { ...BLOCKS, hotplugged_size: 2 * MIB + 4096 } });

  expect(answer.status).toBe(400);
  expect(texts(answer).at(-1)).toContain('memory.hotplugged_size is 2101248');
  await boot({ memory: { ...BLOCKS, hotplugged_size: 256 * MIB } });
});
