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
