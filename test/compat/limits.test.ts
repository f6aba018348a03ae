/** Limits that clients can set, what they get wrong about them, and what `vm.counters` answers. */
import { truncateSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, afterEach, beforeAll, expect, test } from 'vitest';
import { recording } from './recordings.ts';
import { guestConfig } from './support/guests.ts';
import { VmmProcess } from './support/vmm-process.ts';

const MIB = 2 ** 20;

let vmm: VmmProcess;

beforeAll(async () => {
  vmm = await VmmProcess.start();
  writeFileSync(image(), '');
  truncateSync(image(), MIB);
});

afterAll(() => vmm[Symbol.asyncDispose]());

afterEach(() => vmm.put('vm.delete'));

const image = () => join(vmm.folder, 'disk.img');
const config = (disk: object, rest: object = {}) => ({
  ...guestConfig(vmm.folder),
  disks: [{ path: image(), ...disk }],
  ...rest,
});

const OPS = { ops: { size: 9, refill_time: 8, one_time_burst: 7 } };
const group = (id: string, rate_limiter_config: object = OPS) => ({ id, rate_limiter_config });

test.each<[string, object, object]>([
  ['limits of its own', { rate_limiter_config: OPS }, {}],
  ['the limits of a group', { rate_limit_group: 'g' }, { rate_limit_groups: [group('g')] }],
  [
    'a group that limits nothing, by zeros',
    { rate_limit_group: 'g' },
    { rate_limit_groups: [group('g', { ops: { size: 0, refill_time: 0 } })] },
  ],
])('a disk with %s boots', async (_name, disk, rest) => {
  expect(await vmm.put('vm.create', config(disk, rest))).toMatchObject({ status: 204 });
  expect(await vmm.put('vm.boot')).toMatchObject({ status: 204 });
});

test.each<[string, object, object, status: number, text: string]>([
  [
    'a bucket without refill_time',
    { rate_limiter_config: { ops: { size: 1 } } },
    {},
    400,
    'disks[0].rate_limiter_config.ops.refill_time is missing',
  ],
  [
    'a negative size',
    { rate_limiter_config: { ops: { size: -1, refill_time: 1 } } },
    {},
    400,
    'disks[0].rate_limiter_config.ops.size is -1',
  ],
  [
    'an unknown kind of limit',
    { rate_limiter_config: { bogus: 1 } },
    {},
    400,
    'disks[0].rate_limiter_config.bogus is unknown',
  ],
  [
    'a group that is not there',
    { rate_limit_group: 'x' },
    {},
    400,
    'disks[0].rate_limit_group is x',
  ],
  [
    'limits and a group',
    { rate_limit_group: 'g', rate_limiter_config: OPS },
    { rate_limit_groups: [group('g')] },
    400,
    'disks[0] has rate_limit_group and rate_limiter_config',
  ],
  ['a group without limits', {}, { rate_limit_groups: [group('g', {})] }, 400, 'limits nothing'],
  ['two groups of one id', {}, { rate_limit_groups: [group('g'), group('g')] }, 409, 'the id g'],
])('%s is refused by name', async (_name, disk, rest, status, text) => {
  const answer = await vmm.put('vm.create', config(disk, rest));

  expect(answer.status).toBe(status);
  expect((answer.body as string[]).join('\n')).toContain(text);
});

test('counters of a disk have the names of the original, and are 0 before it is used', async () => {
  const recorded = recording('lifecycle').find(({ name }) => name === 'counters')?.response?.body;
  const names = Object.keys((recorded as { _disk0: object })._disk0);
  const unused = { _disk0: Object.fromEntries(names.map((name) => [name, 0])) };
  await vmm.put('vm.create', config({}));
  await vmm.put('vm.boot');

  const running = await vmm.get('vm.counters');
  await vmm.put('vm.pause');
  const paused = await vmm.get('vm.counters');

  expect(running).toMatchObject({ status: 200 });
  expect(running.body).toEqual(unused);
  expect(paused.body).toEqual(unused);
});
