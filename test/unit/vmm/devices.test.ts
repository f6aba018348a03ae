import { expect, test } from 'vitest';
import { normalise } from '../../../src/api/dialects.ts';
import { assignIds, deviceIds, withFound } from '../../../src/vmm/devices.ts';

const CONFIG = normalise({
  payload: {},
  disks: [{}, { id: 'mine' }, {}],
  net: [{}],
  fs: [{ tag: 't', socket: '/s' }],
  vsock: { cid: 3, socket: '/v' },
}).config;

test('default ids share one counter over all kinds, and devices with an id take none', () => {
  const { config, counter } = assignIds(CONFIG, 0);

  expect(deviceIds(config)).toEqual(['_disk0', 'mine', '_disk1', '_net2', '_fs3', '_vsock4']);
  expect(counter).toBe(5);
});

test('a number whose id the user took is passed over', () => {
  const taken = normalise({ payload: {}, disks: [{}], net: [{ id: '_disk7' }] }).config;

  const { config, counter } = assignIds(taken, 7);

  expect(deviceIds(config)).toEqual(['_disk8', '_disk7']);
  expect(counter).toBe(9);
});

test('the config that ids are given to stays as it was', () => {
  const before = structuredClone(CONFIG);

  assignIds(CONFIG, 0);

  expect(CONFIG).toEqual(before);
});

test('what devices found out is written to the ones that found it, and the config stays', () => {
  const { config } = assignIds(CONFIG, 0);
  const before = structuredClone(config);

  const found = withFound(config, new Map([['_disk1', { image_type: 'Raw' }]]));

  expect(found.disks?.map(({ image_type }) => image_type)).toEqual(['Unknown', 'Unknown', 'Raw']);
  expect({ ...found, disks: before.disks }).toEqual(before);
  expect(config).toEqual(before);
});
