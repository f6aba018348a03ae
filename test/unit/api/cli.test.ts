import { expect, test } from 'vitest';
import { parseCommandLine } from '../../../src/api/cli.ts';
import { OPTIONS } from '../../../src/api/cli-options.ts';
import { UsageError } from '../../../src/api/cli-scan.ts';
import { normalise } from '../../../src/api/dialects.ts';
import { helpText, VERSION_TEXT } from '../../../src/api/help.ts';
import { errorChain } from '../../../src/errors.ts';
import { SCHEMAS } from '../../../src/vmm/schema-tables.ts';

const HOST = {
  memoryBytes: () => 2 ** 40,
  cpus: () => new Set([0, 1]),
  numaNodes: () => new Set<number>(),
};
const parse = (...args: string[]) => parseCommandLine(args, HOST);
const configOf = (...args: string[]) => parse('--kernel', '/k', ...args).config;

test.each<[args: string[], body: object]>([
  [[], {}],
  [
    ['--cmdline', 'console=ttyS0 a,b=[c', '--initramfs=/i'],
    { payload: { kernel: '/k', cmdline: 'console=ttyS0 a,b=[c', initramfs: '/i' } },
  ],
  [['--cpus', 'boot=2'], { cpus: { boot_vcpus: 2, max_vcpus: 2 } }],
  [['--memory', ''], {}],
  [
    ['--memory-zone', 'id=a,size=1G', 'id=b,size=1G', '--memory', 'size=0,shared=on'],
    { memory: { size: 0, shared: true, zones: ['a', 'b'].map((id) => ({ id, size: 2 ** 30 })) } },
  ],
  [
    ['--disk', 'path=/a', 'path=/b,readonly=on', '--disk=path=/c'],
    { disks: [{ path: '/a' }, { path: '/b', readonly: true }, { path: '/c' }] },
  ],
  [
    [
      '--cpus',
      'boot=2',
      '--disk',
      'path=/a,direct=on,num_queues=2,queue_size=256,serial=S 1,id=root,sparse=off,image_type=raw,' +
        'lock_granularity=full,_disable_io_uring=on,_disable_aio=on,queue_affinity=[0@[0],1@[0-1]]',
    ],
    {
      cpus: { boot_vcpus: 2, max_vcpus: 2 },
      disks: [
        {
          ...{ path: '/a', direct: true, num_queues: 2, queue_size: 256, serial: 'S 1' },
          ...{ id: 'root', sparse: false, image_type: 'Raw', lock_granularity: 'Full' },
          ...{ disable_io_uring: true, disable_aio: true },
          queue_affinity: [
            { queue_index: 0, host_cpus: [0] },
            { queue_index: 1, host_cpus: [0, 1] },
          ],
        },
      ],
    },
  ],
  [['--vsock', 'cid=3,socket=/v'], { vsock: { cid: 3, socket: '/v' } }],
  [['--vsock', 'cid=3,sock=/v'], { vsock: { cid: 3, socket: '/v' } }],
  [['--fs', 'tag=t,sock=/s'], { fs: [{ tag: 't', socket: '/s' }] }],
  // As in 2020.
  [['--vsock', 'cid=3,sock=/v,iommu=on'], { vsock: { cid: 3, socket: '/v', iommu: true } }],
  [['--serial', 'tty', '--console', 'off'], { serial: { mode: 'Tty' }, console: { mode: 'Off' } }],
  [['--rtc', '--watchdog', '--pvpanic'], { rtc: {}, watchdog: true, pvpanic: true }],
  [['--rtc', 'id=clock'], { rtc: { id: 'clock' } }],
  [
    ['--landlock', '--landlock-rules', 'path=/a,access=rw'],
    { landlock_enable: true, landlock_rules: [{ path: '/a', access: 'rw' }] },
  ],
])('%j is what vm.create takes as %j', (args, body) => {
  const { config } = normalise({ payload: { kernel: '/k' }, ...body });

  expect(configOf(...args)).toEqual(config);
});

test('the command line can name open files, which JSON cannot', () => {
  expect(
    configOf('--cpus', 'boot=2', '--net', 'num_queues=4,fd=[5,6],mac=02:00:00:00:00:0A')?.net?.[0],
  ).toMatchObject({
    fds: [5, 6],
    mac: '02:00:00:00:00:0a',
  });
  expect(normalise({ payload: {}, net: [{ fds: [5] }] }).config.net?.[0]).not.toHaveProperty('fds');
});

test('keys of 2020 are taken, with no default where they are absent', () => {
  const old = configOf('--memory', 'size=1G,file=/dev/shm', '--disk', 'path=/a,wce=false');

  expect(old?.memory.file).toBe('/dev/shm');
  expect(old?.disks?.[0]).toMatchObject({ path: '/a', wce: false });
  expect(old?.disks?.[0]).not.toHaveProperty('poll_queue');
});

test('a restore is asked for with the files of its network cards', () => {
  expect(parse('--restore', 'source_url=file:///s,net_fds=[n0@[3,4]],resume=on').restore).toEqual({
    source_url: 'file:///s',
    prefault: false,
    memory_restore_mode: 'Copy',
    net_fds: [{ id: 'n0', fds: [3, 4], num_fds: 2 }],
    resume: true,
  });
});

test('a payload wins over a restore', () => {
  expect(parse('--restore', 'source_url=file:///s', '--kernel', '/k')).not.toHaveProperty(
    'restore',
  );
});

test.each([
  ['/s', { path: '/s' }],
  ['path=/s', { path: '/s' }],
  ['/s,x=1', { path: '/s,x=1' }],
  ['foo=/s', { path: 'foo=/s' }],
  ['fd=7', { fd: 7 }],
])('--api-socket %s', (value, expected) => {
  expect(parse('--api-socket', value).apiSocket).toEqual(expected);
});

test.each([
  [['-v'], 1],
  [['-vv', '-v'], 3],
  [['-v', '-v', '-v', '-v'], 4],
  [['--no-shutdown'], 0],
])('%j has verbosity %i', (args, expected) => {
  expect(parse(...args).verbosity).toBe(expected);
});

test.each([
  ['--kernel', '--cpus', 'boot=1'],
  ['--kernel', '/k', '--watchdog=on'],
  ['--kernel', '/k', '--disk'],
  ['--kernel', '/k', '-vx'],
  ['--', 'x'],
  ['--v'],
])('%j is a usage error', (...args) => {
  expect(() => parse(...args)).toThrow(UsageError);
});

test.each([
  [['--event-monitor', 'path=/a,fd=3'], 'Give either path= or fd='],
  [['--log-format', '{boottime} {when}'], "Unknown format token '{when}'"],
  [
    ['--kernel', '/k', '--disk', 'bw_size=1'],
    'Error parsing config\ndisks[0].rate_limiter_config.bandwidth.refill_time is missing',
  ],
  [
    ['--kernel', '/k', '--disk', 'path=/a', '--disk', 'path=/a'],
    'disks[0].path and disks[1].path is /a: name one image each',
  ],
  [['--kernel', '/k', '--fs', 'tag=t'], 'Error parsing --fs: socket missing'],
  [
    ['--kernel', '/k', '--fs', 'tag=t,sock=/s,dax=off,cache_size=1G'],
    'Error parsing --fs\ncache_size is 1073741824 with dax=off: drop one of them',
  ],
  [['--net-backend', 'ip=1.2.3.4,sock=/s'], 'Not supported: --net-backend\nStart a vhost-user'],
  [['--block-backend', 'image=/a,sock=/s'], 'Not supported: --block-backend\nStart a vhost-user'],
  [['--kernel', '/k', '--cpus', 'boot=0'], 'cpus.boot_vcpus is 0: give at least 1'],
])('%j is refused: %s', (args, text) => {
  let chain: string[] = [];
  try {
    parse(...args);
  } catch (error) {
    chain = errorChain(error);
  }
  expect(chain.join('\n')).toContain(text);
});

test('--help and --version win over what follows, but not over a mistake before', () => {
  expect(() => parse('--kernel', '/k', '-V', '--bogus')).toThrow(
    new UsageError(VERSION_TEXT, 'stdout'),
  );
  expect(() => parse('--bogus', '--help')).toThrow("unexpected argument '--bogus'");
});

test('every option of the config names a field that there is', () => {
  for (const { field } of OPTIONS) {
    const path = field?.split('.') ?? [];
    const schema = path.reduce<object | undefined>(
      (at, name) => (at as { properties?: Record<string, object> }).properties?.[name],
      SCHEMAS.vmCreate,
    );
    expect(schema, field).toBeDefined();
  }
});

test('the help names every option, and fits into 100 columns of ASCII', () => {
  const help = helpText();

  for (const { name, old = false } of OPTIONS)
    expect(help.includes(name === 'v' ? '  -v...' : `--${name}`), name).toBe(!old);
  for (const line of help.split('\n')) expect(line).toMatch(/^[ -~]{0,100}$/);
});
