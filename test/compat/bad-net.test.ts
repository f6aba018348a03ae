/**
 * What clients get wrong about network cards: each mistake has its status and a text that names
 * field and value, and afterwards the process answers, and a good VM boots. Every VMM here is in a
 * network namespace of its own.
 */
import { execFileSync, spawnSync } from 'node:child_process';
import { readdirSync } from 'node:fs';
import { afterAll, afterEach, beforeAll, describe, expect, test } from 'vitest';
import { tapExec } from '../support/tap-exec.ts';
import { guestConfig } from './support/guests.ts';
import { type Answer, LAUNCHER, VmmProcess } from './support/vmm-process.ts';

const UNSHARE = ['/usr/bin/unshare', '-n'];

let vmm: VmmProcess;

beforeAll(async () => {
  vmm = await VmmProcess.start({ through: UNSHARE });
});

afterAll(() => vmm[Symbol.asyncDispose]());

/** Whatever a test did to it, and nothing of it is left. */
afterEach(async () => {
  expect(await vmm.put('vm.delete')).toMatchObject({ status: 204 });
  for (const name of interfaces()) ip('link', 'delete', name);
  expect(await create()).toMatchObject({ status: 204 });
  expect(await vmm.put('vm.boot')).toMatchObject({ status: 204 });
  expect(interfaces()).toEqual(['vmtap0']);
  expect(await vmm.put('vm.delete')).toMatchObject({ status: 204 });
  expect(interfaces()).toEqual([]);
});

/** In the namespace of the VMM. */
const inside = (...command: string[]): string =>
  execFileSync('nsenter', ['-t', `${vmm.pid}`, '-n', ...command], { encoding: 'utf8' });
const ip = (...args: string[]): string => inside('ip', ...args);
const interfaces = (): string[] =>
  ip('-o', 'link')
    .split('\n')
    .flatMap((line) => /^\d+: (\w+)/.exec(line)?.[1] ?? [])
    .filter((name) => name !== 'lo');

const withCards = (...net: object[]) => ({
  ...guestConfig(vmm.folder),
  ...{ cpus: { boot_vcpus: 2, max_vcpus: 2 }, net },
});
const create = (card: object = {}, process = vmm) => process.put('vm.create', withCards(card));

/** The dialect of 2020. */
function createSeed(card: object): Promise<Answer> {
  const { payload, ...config } = withCards(card);
  const seed = { ...config, kernel: { path: payload.kernel }, cmdline: { args: '' } };
  return vmm.put('vm.create', seed);
}

const texts = ({ body }: Answer) => body as string[];
const cards = async () => {
  const { body } = await vmm.get('vm.info');
  return (body as { config: { net: Record<string, unknown>[] } }).config.net;
};

/** What the command line answers to a card. */
const commandLine = (card: string) =>
  spawnSync(LAUNCHER, ['--kernel', '/nope', '--cpus', 'boot=2', '--net', card], {
    ...{ encoding: 'utf8', env: {} },
  });

describe('a value', () => {
  /** With what the command line says of it, where it cannot be said there in the same way. */
  const MISTAKES: [string, Record<string, unknown>, string][] = [
    ['a MAC address of letters', { mac: 'zz:zz:zz:zz:zz:zz' }, 'mac'],
    ['a multicast MAC address', { mac: '01:00:5e:00:00:01' }, 'net[0].mac is 01:00:5e:00:00:01'],
    ['the MAC address of nobody', { mac: '00:00:00:00:00:00' }, 'net[0].mac is 00:00:00:00:00:00'],
    ['an IP address beyond bytes', { ip: '10.0.0.256', mask: '255.0.0.0' }, '10.0.0.256'],
    ['half an IP address', { ip: '10.0.0', mask: '255.0.0.0' }, '10.0.0'],
    ['a mask that is none', { ip: '10.0.0.1', mask: '255.0.0.0/8' }, '255.0.0.0/8'],
    [
      'a mask with holes',
      { ip: '10.0.0.1', mask: '255.0.255.0' },
      'net[0].mask is 255.0.255.0: give one such as 255.255.255.0',
    ],
    ['one queue', { num_queues: 1 }, 'net[0].num_queues is 1: give 2'],
    ['no queue', { num_queues: 0 }, 'net[0].num_queues is 0: give 2'],
    ['3 queues', { num_queues: 3 }, 'net[0].num_queues is 3: give 2 for each pair'],
    ['more pairs than vCPUs', { num_queues: 6 }, 'net[0].num_queues is 6: give at most two'],
    ['2^53 - 1 queues', { num_queues: 2 ** 53 - 1 }, 'num_queues is 9007199254740991'],
    ['2^53 queues', { num_queues: 2 ** 53 }, '9007199254740992'],
    ['queues of 0', { queue_size: 0 }, 'net[0].queue_size is 0: give a power of two'],
    ['queues of 100', { queue_size: 100 }, 'net[0].queue_size is 100: give a power of two'],
    ['queues of 65536', { queue_size: 65_536 }, '65536'],
    ['a name of 16 bytes', { tap: 'abcdefghijklmnop' }, 'give a name of at most 15 bytes'],
    ['a name with a slash', { tap: 'a/b' }, 'net[0].tap is "a/b"'],
  ];

  test.each(MISTAKES)('of %s: 400 in both dialects', async (_name, card, text) => {
    for (const answer of [await create(card), await createSeed(card)]) {
      expect(answer.status).toBe(400);
      expect(texts(answer).join('\n')).toContain(text);
    }
  });

  /** A boot finds what is wrong with a name; what was opened before is told first. */
  const atBoot = /name/;
  test.each(MISTAKES.filter(([name]) => !atBoot.test(name)))(
    'of %s: exit 1 of the command line',
    (_name, card, text) => {
      const words = Object.entries(card).map(([key, value]) => `${key}=${value}`);

      const { status, stderr } = commandLine(words.join());

      expect(status).toBe(1);
      expect(stderr).toContain(text);
    },
  );

  test.each<[string, object, string]>([
    ['a small MTU', { mtu: 1279 }, 'net[0].mtu is 1279: give at least 1280'],
    ['an IP address alone', { ip: '10.0.0.1' }, 'net[0].ip is 10.0.0.1: give mask too'],
    ['a multicast MAC address of the host', { host_mac: '01:00:5e:00:00:01' }, 'host_mac is 01:'],
    ['offloads without checksums', { offload_csum: false }, 'net[0].offload_csum is false'],
    ['an id of ours', { id: '__rng' }, 'A device has the id __rng'],
  ])('of %s: 400', async (_name, card, text) => {
    const answer = await create(card);

    expect(answer.status).toBe(400);
    expect(texts(answer).join('\n')).toContain(text);
  });

  test.each<[string, object, string]>([])(
    'of %s, which is not built: 400 at vm.boot, by name',
    async (_name, card, text) => {
      const memory = { size: 64 << 20, shared: true };
      const config = { ...withCards(card), memory };
      expect(await vmm.put('vm.create', config)).toMatchObject({ status: 204 });

      const answer = await vmm.put('vm.boot');

      expect(answer.status).toBe(400);
      expect(texts(answer)[2]).toBe(`Not supported yet: net[0] ${text}`);
    },
  );

  test.each<[string, object]>([
    ['2 pairs', { num_queues: 4 }],
    ['queues of 32768', { queue_size: 32_768 }],
    ['a limit', { rate_limiter_config: { ops: { size: 9, refill_time: 9 } } }],
    ['an empty tap', { tap: '' }],
    ['limits of nothing', { rate_limiter_config: { ops: { size: 0, refill_time: 0 } } }],
    ['no offloads', { offload_csum: false, offload_tso: false, offload_ufo: false }],
  ])('of %s: boots', async (_name, card) => {
    expect(await create(card)).toMatchObject({ status: 204 });
    expect(await vmm.put('vm.boot')).toMatchObject({ status: 204 });
  });
});

const OPEN = ['Cannot create virtio-net device', 'Failed to open taps', 'Open tap device failed'];
const CONFIGURE = [...OPEN, 'Unable to configure tap interface'];

describe('a tap', () => {
  test('of a name that is not there: made, set up, and gone after vm.delete', async () => {
    const host_mac = '02:00:00:00:00:05';
    await create({ tap: 'lan7', ip: '10.7.0.1', mask: '255.255.0.0', mtu: 4000, host_mac });

    expect(await vmm.put('vm.boot')).toMatchObject({ status: 204 });

    expect(ip('-o', 'addr', 'show', 'dev', 'lan7')).toContain('inet 10.7.0.1/16');
    expect(ip('-o', 'link', 'show', 'dev', 'lan7')).toMatch(
      /\bUP\b.* mtu 4000 .*02:00:00:00:00:05/,
    );
  });

  test('that is there: keeps its address, and stays', async () => {
    ip('tuntap', 'add', 'lan0', 'mode', 'tap');
    await create({ tap: 'lan0', ip: '10.7.0.1', mask: '255.255.0.0' });

    expect(await vmm.put('vm.boot')).toMatchObject({ status: 204 });

    expect(ip('-o', '-4', 'addr', 'show', 'dev', 'lan0')).toBe('');
    expect(ip('link', 'show', 'dev', 'lan0')).toMatch(/<.*\bUP\b/);
    await vmm.put('vm.shutdown');
    expect(interfaces()).toEqual(['lan0']);
  });

  test('for several is taken for one, and the other way round: refused by name', async () => {
    ip('tuntap', 'add', 'many', 'mode', 'tap', 'multi_queue');
    ip('tuntap', 'add', 'single', 'mode', 'tap');

    await create({ tap: 'many' });
    expect(await vmm.put('vm.boot')).toMatchObject({ status: 204 });
    await vmm.put('vm.delete');
    await create({ tap: 'single', num_queues: 4 });
    const refused = await vmm.put('vm.boot');

    expect(refused.status).toBe(400);
    expect(texts(refused).slice(3, 8)).toEqual([...CONFIGURE, 'Invalid argument (os error 22)']);
    expect(texts(refused)[8]).toContain(
      '_net0.tap is single, which is no tap for several queue pairs',
    );
  });

  test.each(['lo', 'tun0', 'dummy0'])('that is none, %s: 400 at vm.boot', async (tap) => {
    ip('tuntap', 'add', 'tun0', 'mode', 'tun');
    spawnSync('nsenter', [
      '-t',
      `${vmm.pid}`,
      '-n',
      'ip',
      'link',
      'add',
      'dummy0',
      'type',
      'dummy',
    ]);
    if (!ip('-o', 'link').includes(tap)) return; // a kernel without that module
    await create({ tap });

    const answer = await vmm.put('vm.boot');

    expect(answer.status).toBe(400);
    expect(texts(answer).at(-1)).toBe(
      `_net0.tap is ${tap}, an interface that is no tap: name one that is`,
    );
  });

  test('of another VM: 409 at vm.boot while that runs, in the words of the original', async () => {
    ip('tuntap', 'add', 'lan0', 'mode', 'tap');
    const through = ['/usr/bin/nsenter', '-t', `${vmm.pid}`, '-n'];
    await using other = await VmmProcess.start({ through });
    await create({ tap: 'lan0' }, other);
    expect(await other.put('vm.boot')).toMatchObject({ status: 204 });

    expect(await create({ tap: 'lan0' })).toMatchObject({ status: 204 });
    const refused = await vmm.put('vm.boot');
    await other.put('vm.shutdown');
    const taken = await vmm.put('vm.boot');

    expect(refused.status).toBe(409);
    expect(texts(refused).slice(0, 8)).toEqual([
      ...['Error from API', 'The VM could not boot', 'Error from device manager', ...CONFIGURE],
      'Device or resource busy (os error 16)',
    ]);
    expect(texts(refused)[8]).toContain('_net0.tap is lan0, which another device or VM uses');
    expect(taken).toMatchObject({ status: 204 });
  });

  test('for two cards: 409', async () => {
    const answer = await vmm.put('vm.create', withCards({ tap: 'a' }, { tap: 'a' }));

    expect(answer.status).toBe(409);
    expect(texts(answer).at(-1)).toContain('net[0].tap and net[1].tap is a');
  });

  test('whose second card cannot be made: both stay in the config, and nothing is left', async () => {
    await vmm.put('vm.create', withCards({ tap: 'a' }, { tap: 'lo' }));

    expect(await vmm.put('vm.boot')).toMatchObject({ status: 400 });

    expect(await vmm.state()).toBe('Created');
    expect(await cards()).toMatchObject([{ tap: 'a' }, { tap: 'lo' }]);
    expect(interfaces()).toEqual([]);
  });

  test('without the capability: 400 at vm.create if it must be made, else at vm.boot', async () => {
    const drop = ['/usr/bin/setpriv', '--bounding-set', '-net_admin'];
    await using weak = await VmmProcess.start({ through: [...UNSHARE, ...drop] });

    const unnamed = await create({}, weak);
    const named = await create({ tap: 'lan0' }, weak);
    const booted = await weak.put('vm.boot');

    expect([unnamed, named, booted].map(({ status }) => status)).toEqual([400, 204, 400]);
    for (const answer of [unnamed, booted]) {
      expect(texts(answer)).toContain('Operation not permitted (os error 1)');
      expect(texts(answer).at(-1)).toContain('give the VMM the capability cap_net_admin');
    }
  });

  test('of a user without rights: taken, if it is the user’s own and up', async () => {
    const drop = ['/usr/bin/setpriv', '--bounding-set', '-net_admin'];
    await using weak = await VmmProcess.start({ through: [...UNSHARE, ...drop] });
    const there = (...args: string[]) =>
      execFileSync('nsenter', ['-t', `${weak.pid}`, '-n', 'ip', ...args]);
    there('tuntap', 'add', 'lan0', 'mode', 'tap', 'user', '0');
    there('link', 'set', 'lan0', 'up');
    await create({ tap: 'lan0' }, weak);

    expect(await weak.put('vm.boot')).toMatchObject({ status: 204 });
  });

  test('that cannot have the MTU: 400 at vm.boot, and the tap is gone again', async () => {
    await create({ tap: 'lan0', mtu: 65_535 });

    const answer = await vmm.put('vm.boot');

    expect(answer.status).toBe(400);
    expect(texts(answer)).toContain('Setting up tap lan0 failed');
    expect(texts(answer).at(-1)).toContain('_net0.mtu is 65535: give one that the tap can have');
    expect(interfaces()).toEqual([]);
  });
});

describe('files that whoever started the VMM has opened', () => {
  /** Over the command line, with `count` files of a tap from 3 on. */
  const withFiles = (count: number, card: string) =>
    VmmProcess.start({
      through: [tapExec(), `${count}`],
      args: (folder) => [
        ...['--kernel', guestConfig(folder).payload.kernel, '--cpus', 'boot=2'],
        ...['--memory', 'size=64M', '--serial', 'null', '--console', 'off', '--net', card],
      ],
    });
  const failure = (cards: string[], through: string[] = []) => {
    const { kernel } = guestConfig(vmm.folder).payload;
    const args = [...through, LAUNCHER, '--kernel', kernel, '--console', 'off'];
    return spawnSync(
      tapExec(),
      ['1', ...args, '--serial', 'null', '--cpus', 'boot=2', '--net', ...cards],
      { encoding: 'utf8', env: {} },
    );
  };

  test('are used, by a reboot too, and are as they were', async () => {
    await using started = await withFiles(2, 'fd=[3,4],num_queues=4');
    const info = async () => {
      const { body } = await started.get('vm.info');
      return (body as { config: { net: Record<string, unknown>[] } }).config.net[0];
    };

    const before = await info();
    const rebooted = await started.put('vm.reboot');
    const after = await info();

    expect(before).toMatchObject({ fds: [3, 4], host_mac: expect.stringMatching(/^..:/) });
    expect(rebooted).toMatchObject({ status: 204 });
    expect(after).toEqual(before);
  });

  test.each<[string, string, string]>([
    ['that is not open', 'fd=[99]', '_net0.fds names 99, which is not open'],
    ['that is no tap', 'fd=[4]', '_net0.fds names 4, which is no tap'],
    ['of one tap for two pairs', 'fd=[3,3],num_queues=4', 'net[0].fds is 3,3: give one file'],
    ['too few', 'fd=[3],num_queues=4', 'net[0].num_queues is 4 and fds is 3'],
    ['too many', 'fd=[3,4,5]', 'match the number of FDs (6)'],
    ['of standard output', 'fd=[1]', 'net[0].fds names 1: give files of taps, from 3 on'],
  ])('one %s: exit 1, with what to do', (_name, card, text) => {
    const { status, stderr } = failure([card]);

    expect(status).toBe(1);
    expect(stderr).toContain(text);
  });

  test.each<[string, string[], string]>([
    [
      'twice in one card',
      ['fd=[3,4],num_queues=4'],
      '_net0.fds is 3,4, of which 3 and 4 are one file',
    ],
    ['in two cards', ['fd=[3]', 'fd=[4]'], '_net1.fds names 4, a file that another card uses'],
  ])('and duplicated, %s: exit 1, with what to do', (_name, cards, text) => {
    const duplicate = ['/bin/sh', '-c', 'exec 4>&3; exec "$0" "$@"'];

    const { status, stderr } = failure(cards, duplicate);

    expect(status).toBe(1);
    expect(stderr).toContain(text);
  });

  test('are not named in JSON: what stands there is dropped', async () => {
    expect(await create({ fds: [3] })).toMatchObject({ status: 204 });
    expect(await vmm.put('vm.boot')).toMatchObject({ status: 204 });

    expect((await cards())[0]).not.toHaveProperty('fds');
  });
});

describe('vm.info', () => {
  test('has random MAC addresses that stay, that of the tap once there is one', async () => {
    await create();
    const created = await cards();
    await vmm.put('vm.boot');
    const booted = await cards();
    await vmm.put('vm.reboot');
    const rebooted = await cards();

    expect(created).toMatchObject([{ mac: expect.stringMatching(/^2e(:[0-9a-f]{2}){5}$/) }]);
    expect(created[0]).not.toHaveProperty('host_mac');
    expect(booted).toMatchObject([{ id: '_net0', mac: created[0]?.['mac'] }]);
    expect(rebooted).toEqual(booted);
    expect(ip('link', 'show', 'dev', 'vmtap0')).toContain(`${rebooted[0]?.['host_mac']}`);
    expect(rebooted[0]).not.toHaveProperty('tap');
  });

  test('tells in the dialect of 2020 which address a tap gets', async () => {
    await createSeed({ mac: '02:00:00:00:00:01' });
    await vmm.put('vm.boot');

    expect(await cards()).toEqual([
      {
        ...{ tap: null, ip: '192.168.249.1', mask: '255.255.255.0', mac: '02:00:00:00:00:01' },
        ...{ iommu: false, num_queues: 2, queue_size: 256, vhost_user: false, vhost_socket: null },
      },
    ]);
    expect(ip('-o', 'addr', 'show', 'dev', 'vmtap0')).toContain('inet 192.168.249.1/24');
  });
});

test('8 cards of 2 pairs, booted and deleted 10 times: no file and no thread stays', async () => {
  const count = (what: string) => readdirSync(`/proc/${vmm.pid}/${what}`).length;
  const round = async () => {
    await vmm.put('vm.create', withCards(...Array(8).fill({ num_queues: 4 })));
    expect(await vmm.put('vm.boot')).toMatchObject({ status: 204 });
    expect(interfaces()).toHaveLength(8);
    await vmm.put('vm.delete');
  };
  await round();
  const before = { fds: count('fd'), threads: count('task') };

  for (let i = 0; i < 10; i++) await round();

  expect(count('fd')).toBeLessThan(before.fds + 8);
  expect(count('task')).toBeLessThanOrEqual(before.threads);
});
