/** The command line of March 2020, flag by flag: each spelling of then says what it said. */
import { describe, expect, test } from 'vitest';
import { parseCommandLine } from '../../../src/api/cli.ts';
import { errorChain } from '../../../src/errors.ts';

const HOST = {
  memoryBytes: () => 2 ** 40,
  cpus: () => new Set([0, 1]),
  numaNodes: () => new Set<number>(),
};
const configOf = (...args: string[]) =>
  parseCommandLine(['--kernel', '/k', '--console', 'off', ...args], HOST).config;

const GIB = 2 ** 30;

test.each<[args: string[], config: object]>([
  [['--cpus', 'boot=2,max=4'], { cpus: { boot_vcpus: 2, max_vcpus: 4 } }],
  [
    ['--memory', 'size=1G,file=/dev/shm,mergeable=on,hotplug_size=2G'],
    { memory: { size: GIB, file: '/dev/shm', mergeable: true, hotplug_size: 2 * GIB } },
  ],
  [
    ['--cmdline', 'console=ttyS0 root=/dev/vda1'],
    { payload: { cmdline: 'console=ttyS0 root=/dev/vda1' } },
  ],
  [
    [
      '--disk',
      'path=/a,readonly=on,direct=on,iommu=on,num_queues=1,queue_size=64',
      'path=/b,wce=true,poll_queue=false',
    ],
    {
      disks: [
        { path: '/a', readonly: true, direct: true, iommu: true, num_queues: 1, queue_size: 64 },
        { path: '/b', wce: true, poll_queue: false },
      ],
    },
  ],
  [
    ['--disk', 'vhost_user=true,socket=/s,num_queues=1,wce=false'],
    { disks: [{ vhost_user: true, vhost_socket: '/s', num_queues: 1, wce: false }] },
  ],
  [
    [
      '--net',
      'tap=tap0,ip=10.0.0.1,mask=255.0.0.0,mac=02:00:00:00:00:01,num_queues=2,queue_size=128',
      'tap=,mac=,ip=,mask=',
    ],
    {
      net: [
        {
          tap: 'tap0',
          ip: '10.0.0.1',
          mask: '255.0.0.0',
          mac: '02:00:00:00:00:01',
          queue_size: 128,
        },
        { num_queues: 2, queue_size: 256, mac: expect.stringMatching(/^2e(:..){5}$/) },
      ],
    },
  ],
  [['--net', 'vhost_user=true,socket=/s'], { net: [{ vhost_user: true, vhost_socket: '/s' }] }],
  [['--rng', 'src=/dev/random,iommu=on'], { rng: { src: '/dev/random', iommu: true } }],
  [
    [
      '--fs',
      'tag=a,sock=/a,num_queues=1,queue_size=512,dax=on,cache_size=4G',
      'tag=b,sock=/b,dax=off',
    ],
    {
      fs: [
        { tag: 'a', socket: '/a', num_queues: 1, queue_size: 512, dax: true, cache_size: 4 * GIB },
        { tag: 'b', socket: '/b', dax: false },
      ],
    },
  ],
  [
    ['--pmem', 'file=/a,size=128M,iommu=on,mergeable=on,discard_writes=on', 'file=/b,size=2M'],
    {
      pmem: [
        { file: '/a', size: 128 << 20, iommu: true, mergeable: true, discard_writes: true },
        { file: '/b', size: 2 << 20 },
      ],
    },
  ],
  [['--serial', 'tty'], { serial: { mode: 'Tty' } }],
  [['--serial', 'file=/s'], { serial: { mode: 'File', file: '/s' } }],
  [['--serial', 'null'], { serial: { mode: 'Null' } }],
  [
    ['--device', 'path=/sys/bus/pci/devices/0000:00:02.0,iommu=on,id=nic'],
    { devices: [{ path: '/sys/bus/pci/devices/0000:00:02.0', iommu: true, id: 'nic' }] },
  ],
  [['--vsock', 'cid=3,sock=/v,iommu=on'], { vsock: [{ cid: 3, socket: '/v', iommu: true }] }],
])('%j', (args, config) => {
  expect(configOf(...args)).toMatchObject(config);
});

test('--console file=PATH,iommu=on', () => {
  const { config } = parseCommandLine(['--kernel', '/k', '--console', 'file=/c,iommu=on'], HOST);

  expect(config?.console).toMatchObject({ mode: 'File', file: '/c', iommu: true });
});

test('-vv --log-file PATH --api-socket PATH', () => {
  const args = ['-vv', '--log-file', '/log', '--api-socket', '/s'];

  expect(parseCommandLine(args, HOST)).toMatchObject({
    ...{ verbosity: 2, logFile: '/log', apiSocket: { path: '/s' } },
  });
});

describe('what today refuses, as today', () => {
  const chainOf = (...args: string[]) => {
    try {
      return [String(configOf(...args))];
    } catch (error) {
      return errorChain(error);
    }
  };

  test.each<[args: string[], text: string]>([
    [['--net-backend', 'ip=1.2.3.4,mask=255.0.0.0,sock=/s'], 'Not supported: --net-backend'],
    [['--block-backend', 'image=/a,sock=/s'], 'Not supported: --block-backend'],
    [['--disk', 'path=/a,bogus=1'], 'unknown option: bogus'],
    [['--vsock', 'cid=3,sock=/a', 'cid=4,sock=/b'], 'unexpected argument'],
    [['--cpus'], 'a value is required'],
    [['--fs', 'tag=a'], 'socket missing'],
    [['--pmem', 'size=2M'], 'file'],
  ])('%j: %s', (args, text) => {
    expect(chainOf(...args).join('\n')).toContain(text);
  });
});
