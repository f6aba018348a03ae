import { closeSync, fstatSync, openSync } from 'node:fs';
import { afterEach, beforeEach, expect, test, vi } from 'vitest';
import { NetTap } from '../../../../src/devices/virtio/net-tap.ts';
import { errorChain, VmmError } from '../../../../src/errors.ts';
import { openFiles } from '../../../support/fds.ts';
import {
  EINVAL,
  type FakeTaps,
  fakeNet,
  GONE,
  netConfig,
  systemError,
} from '../../support/fake-taps.ts';

let taps: FakeTaps;
const open: NetTap[] = [];

beforeEach(() => {
  taps = fakeNet().taps;
});

afterEach(async () => {
  for (const tap of open.splice(0)) await tap.close();
  vi.restoreAllMocks();
});

function tapOf(card: object): NetTap {
  const tap = new NetTap(netConfig(card), 'net[0]');
  open.push(tap);
  return tap;
}

/** Whatever it throws. */
function failureOf(card: object): VmmError {
  try {
    tapOf(card);
  } catch (error) {
    if (error instanceof VmmError) return error;
    throw error;
  }
  throw new Error('It was taken');
}

const changes = () =>
  taps.calls.filter(([name]) => !['open', 'adopt', 'probeUso'].includes(name as string));

test.each([{}, { tap: '' }])('with %j, one is made, of a name that the kernel chooses', (card) => {
  tapOf(card);

  expect(taps.callsOf('open')).toEqual([['vmtap%d', 1]]);
});

test('one that we make is set up as the config says, and last of all brought up', () => {
  const address = { ip: '10.0.0.1', mask: '255.0.0.0' };

  tapOf({ ...address, host_mac: '02:00:00:00:00:01', mtu: 9000 });

  expect(changes()).toEqual([
    ['setAddress', 'vmtap0', '10.0.0.1', '255.0.0.0'],
    ['setMac', 'vmtap0', '02:00:00:00:00:01'],
    ['setMtu', 'vmtap0', 9000],
    ['up', 'vmtap0'],
  ]);
});

test('one that is there keeps its address, and what is already as it should be', () => {
  taps.made = false;
  taps.ofInterface = 'lan0';

  tapOf({ tap: 'lan0', ip: '10.0.0.1', mask: '255.0.0.0', host_mac: taps.mac, mtu: taps.mtu });

  expect(taps.callsOf('open')).toEqual([['lan0', 1]]);
  expect(changes()).toEqual([['up', 'lan0']]);
});

test('what the host says of it is what it says after all was set', () => {
  const { mac, mtu } = tapOf({ host_mac: '02:00:00:00:00:01', mtu: 9000 });

  expect({ mac, mtu }).toEqual({ mac: '02:00:00:00:00:01', mtu: 9000 });
});

test('its MTU is what it is now, and what it last was when it is gone or out of sight', () => {
  const tap = tapOf({});
  taps.mtu = 9000;
  expect(tap.mtu).toBe(9000);

  taps.mtu = 0;
  expect(tap.mtu).toBe(9000);
  taps.failures.set('facts', GONE);
  expect(tap.mtu).toBe(9000);
});

test('files that the user opened are duplicated, and the interface is left as it is', () => {
  const card = { fds: [5, 6], num_queues: 4, host_mac: '02:00:00:00:00:01', mtu: 9000 };

  const { fds } = tapOf({ ...card, ip: '10.0.0.1', mask: '255.0.0.0' });

  expect(taps.callsOf('adopt')).toEqual([[5], [6]]);
  expect(fds).toHaveLength(2);
  expect(changes()).toEqual([
    ['setQueue', 0, true],
    ['setQueue', 1, false],
  ]);
});

test('of several files only the first gets frames at first, and at the end all do', async () => {
  const tap = tapOf({ num_queues: 6 });
  const atFirst = taps.callsOf('setQueue');
  tap.setPairs(2);
  await tap.close();

  const states = [atFirst, taps.callsOf('setQueue').slice(3, 6), taps.callsOf('setQueue').slice(6)];
  expect(states.map((calls) => calls.map(([, on]) => on))).toEqual([
    [true, false, false],
    [true, true, false],
    [true, true, true],
  ]);
});

test('files that are already as they should be do not matter, other failures do', async () => {
  taps.failures.set('setQueue', EINVAL);
  const tap = tapOf({ num_queues: 4 });
  expect(() => tap.setPairs(2)).not.toThrow();

  taps.failures.set('setQueue', systemError('ENOMEM', 12, 'Cannot allocate memory'));
  expect(() => tap.setPairs(2)).toThrow('ENOMEM');
  await expect(tap.close()).resolves.toBeUndefined();
});

test('one file is never taken from a tap that has no other', () => {
  const tap = tapOf({});
  tap.setPairs(1);

  expect(taps.callsOf('setQueue')).toEqual([]);
});

const OPEN = [
  'Error from device manager',
  'Cannot create virtio-net device',
  'Failed to open taps',
  'Open tap device failed',
];

test.each<[string, number, string, object, string]>([
  ['EBUSY', 16, 'Device or resource busy', { tap: 'lan0' }, 'another device or VM uses'],
  ['EPERM', 1, 'Operation not permitted', { tap: 'lan0' }, 'cap_net_admin'],
  ['EACCES', 13, 'Permission denied', { tap: 'lan0' }, 'right to open /dev/net/tun'],
  ['ENOENT', 2, 'No such file or directory', { tap: 'lan0' }, 'load the kernel module tun'],
  ['EINVAL', 22, 'Invalid argument', { tap: 'lan0' }, 'no tap: name one that is'],
  ['EINVAL', 22, 'Invalid argument', { tap: 'lan0', num_queues: 4 }, 'multi_queue'],
  ['EMFILE', 24, 'Too many open files', { tap: 'lan0' }, 'name another'],
])('%s (%i, %s) of %j says what to do: %s', (code, errno, text, card, remedy) => {
  taps.failures.set('open', systemError(code, errno, text));

  const failure = failureOf(card);

  expect(failure.kind).toBe(code === 'EBUSY' ? 'conflict' : 'invalid-config');
  const chain = errorChain(failure);
  expect(chain.slice(0, 6)).toEqual([
    ...OPEN,
    'Unable to configure tap interface',
    `${text} (os error ${errno})`,
  ]);
  expect(chain[6]).toMatch(/^net\[0\]\.tap is lan0/);
  expect(chain[6]).toContain(remedy);
});

test('a failure where no tap was named says that one was to be made', () => {
  taps.failures.set('open', systemError('EPERM', 1, 'Operation not permitted'));

  expect(errorChain(failureOf({})).at(-1)).toContain('net[0] has no tap, so one is to be made');
});

test('a name that is too long is told as the original does, and why', () => {
  const chain = errorChain(failureOf({ tap: 'abcdefghijklmnop' }));

  expect(chain).toEqual([
    ...OPEN,
    'Interface name too long (max length is 15): abcdefghijklmnop',
    'net[0].tap is abcdefghijklmnop: give a name of at most 15 bytes',
  ]);
  expect(taps.calls).toEqual([]);
});

test.each(['.', '..', 'a b', 'a/b', 'a:b', 'a%', '%s', '%d%d', 'a\0b', 'üüüüüüüü'])(
  'no interface can be called %j',
  (tap) => {
    expect(errorChain(failureOf({ tap })).at(-1)).toContain('net[0].tap is ');
    expect(taps.calls).toEqual([]);
  },
);

test.each(['a', 'abcdefghijklmno', 'a.b-c_d', 'lan%d', '%dx', '...', 'ü'])('%j is taken', (tap) => {
  tapOf({ tap });

  expect(taps.callsOf('open')).toEqual([[tap, 1]]);
});

test.each<[string, object, string]>([
  ['setAddress', { ip: '10.0.0.1', mask: '255.0.0.0' }, 'net[0].ip is 10.0.0.1 and mask 255.0.0.0'],
  ['setMac', { host_mac: '02:00:00:00:00:01' }, 'net[0].host_mac is 02:00:00:00:00:01'],
  ['setMtu', { mtu: 65_535 }, 'net[0].mtu is 65535'],
  ['up', {}, 'net[0].tap is vmtap0'],
])('when %s fails, %j is named, and nothing stays open', (call, card, field) => {
  taps.failures.set(call, systemError('EPERM', 1, 'Operation not permitted'));

  const failure = failureOf({ ...card, num_queues: 4 });

  const chain = errorChain(failure);
  expect(failure.kind).toBe('invalid-config');
  expect(chain.slice(0, 5)).toEqual([
    ...OPEN.slice(0, 3),
    'Setting up tap vmtap0 failed',
    'Operation not permitted (os error 1)',
  ]);
  expect(chain[5]).toContain(`${field}: give the VMM the capability cap_net_admin`);
  expect(openFiles(taps.folder)).toEqual([]);
});

test.each([
  [systemError('EBADF', 9, 'Bad file descriptor'), 'which is not open'],
  [systemError('ENOTTY', 25, 'Inappropriate ioctl for device'), 'which is no tap'],
  [EINVAL, 'IFF_VNET_HDR'],
])('a file that is none (%s) is named by its number', (error, text) => {
  taps.failures.set('name', error);

  const chain = errorChain(failureOf({ fds: [7] }));

  expect(chain.slice(0, 3)).toEqual([...OPEN.slice(0, 2), 'Using existing tap']);
  expect(chain.at(-1)).toContain('net[0].fds names 7');
  expect(chain.at(-1)).toContain(text);
  expect(openFiles(taps.folder)).toEqual([]);
});

test('files of two taps are no card', () => {
  const chain = errorChain(failureOf({ fds: [7, 108], num_queues: 4 }));

  expect(chain.at(-1)).toBe('net[0].fds is 7,108, of vmtap0 and tap108: give files of one tap');
  expect(openFiles(taps.folder)).toEqual([]);
});

test('duplicates of one file are no two queues', () => {
  taps.duplicates = [5, 7];

  const chain = errorChain(failureOf({ fds: [5, 6, 7], num_queues: 6 }));

  expect(chain.at(-1)).toContain('net[0].fds is 5,6,7, of which 5 and 7 are one file');
  expect(openFiles(taps.folder)).toEqual([]);
});

test('a file of another card is refused until that card is gone', async () => {
  const card = tapOf({ fds: [55] });

  const failure = failureOf({ fds: [55] });
  await card.close();
  tapOf({ fds: [55] });

  expect(failure.kind).toBe('conflict');
  expect(errorChain(failure).at(-1)).toContain(
    'net[0].fds names 55, a file that another card uses',
  );
});

test('to be closed twice closes nobody else’s file', async () => {
  const tap = tapOf({});
  const [fd = -1] = tap.fds;
  await tap.close();
  const other = openSync('/dev/null', 'r');

  await tap.close();

  expect(other).toBe(fd);
  expect(() => fstatSync(other)).not.toThrow();
  closeSync(other);
});

test('a file that cannot be had is named, and no other stays open', () => {
  taps.failures.set('adopt', systemError('EMFILE', 24, 'Too many open files'));

  expect(errorChain(failureOf({ fds: [5] })).at(-1)).toContain('net[0].fds names 5');
  expect(openFiles(taps.folder)).toEqual([]);
});

test('a check of files that were given changes nothing of them', () => {
  NetTap.check(netConfig({ fds: [5] }), 'net[0]');

  expect(taps.calls).toEqual([]);
  expect(openFiles(taps.folder)).toEqual([]);
});
