import { expect, test } from 'vitest';
import { SharedPassthrough } from '../../../src/vmm/passthrough.ts';
import { NO_MEMORY } from '../support/fake-host.ts';
import { FakePassthrough, FakeVfioDevice } from '../support/fake-vfio.ts';

const BLOCK = 2 << 20;

function create() {
  const log: string[] = [];
  let discards: (() => void)[] = [];
  const state = {
    fault: undefined as Error | undefined,
    leftOutBytes: 0,
    limits: { ranges: [{ first: 0n, last: 2n ** 64n - 1n }], pageSizes: 4096n },
  };
  class Container {
    async follow(_: unknown, blocks: { plugged: Uint8Array }[]): Promise<void> {
      log.push(`follow ${blocks.map(({ plugged }) => [...plugged].join('')).join(' ')}`);
      if (state.fault) throw state.fault;
    }
    async reach(to: unknown): Promise<void> {
      log.push(`reach ${to}`);
      if (state.fault) throw state.fault;
    }
    map = ({ first }: { first: bigint }) => void log.push(`map ${first}`);
    unmap = (first: bigint) => void log.push(`unmap ${first}`);
    limits = () => state.limits;
    leftOutBytes = () => state.leftOutBytes;
    close = () => void log.push('container closed');
  }
  class Guest extends FakePassthrough {
    override hold = () => void log.push('hold');
    override drop = () => void log.push('drop');
  }
  class Device extends FakeVfioDevice {
    override open = async () => void log.push('open');
    override reset = async () => void log.push('reset');
    override close = async () => void log.push('close');
  }
  const plugged = new Uint8Array(4);
  const discard = () =>
    new Promise<void>((resolve) => {
      log.push('discard');
      discards.push(resolve);
    });
  const warnings: string[] = [];
  const shared = new SharedPassthrough({
    native: { Passthrough: Guest, VfioContainer: Container, VfioDevice: Device } as never,
    vm: {} as never,
    memory: { ...NO_MEMORY, discard },
    blocks: [
      {
        ...{ gpa: 0, regionBytes: 4 * BLOCK, blockBytes: BLOCK, usableBytes: 3 * BLOCK },
        ...{ requestedBytes: 0, plugged },
      },
    ],
    windows: [{ gpa: 0x1000, sizeBytes: 0x1000 }],
    onWarning: (text) => warnings.push(text),
  });
  const finish = () => {
    for (const resolve of discards) resolve();
    discards = [];
  };
  return { shared, log, state, plugged, warnings, finish };
}

const NOTHING = Float64Array.of();

test('a device has memory before KVM knows of it, and is reset before the host has it back', async () => {
  const { shared, log } = create();
  const device = await shared.open('/dev/vfio/7', 'a');
  await shared.close(device);
  expect(log).toEqual(['open', 'follow 000', 'hold', 'reset', 'drop', 'close', 'container closed']);
});

test('a group is let go with its last device, and the IOMMU with the last of all', async () => {
  const { shared, log } = create();
  const [one, two] = [await shared.open('/dev/vfio/7', 'a'), await shared.open('/dev/vfio/7', 'b')];
  log.length = 0;
  await shared.close(one);
  expect(log).toEqual(['reset', 'close']);
  await shared.close(two);
  expect(log.slice(2)).toEqual(['reset', 'drop', 'close', 'container closed']);
});

test('a device that cannot reach memory leaves nothing, and the next one can be opened', async () => {
  const { shared, log, state } = create();
  state.fault = new Error('ENOMEM');
  await expect(shared.open('/dev/vfio/7', 'a')).rejects.toThrow('ENOMEM');
  expect(log.slice(-3)).toEqual(['drop', 'close', 'container closed']);

  state.fault = undefined;
  await shared.memoryChanged(); // none is there: nobody is asked
  await shared.open('/dev/vfio/7', 'a');
});

test('what is plugged by the block is followed, and no file is left out unheard', async () => {
  const { shared, log, plugged, state, warnings } = create();
  await shared.open('/dev/vfio/7', 'a');
  plugged.set([0, 1, 0, 1]);
  state.leftOutBytes = 4096;
  await shared.memoryChanged();
  expect(log.at(-1)).toBe('follow 010');
  expect(warnings[0]).toContain('4096');
});

test('memory that devices cannot follow is refused', async () => {
  const { shared, state } = create();
  await shared.open('/dev/vfio/7', 'a');
  state.fault = new Error('EINVAL');
  await expect(shared.memoryChanged()).rejects.toThrow('Failed to update guest memory');
});

test('nothing is discarded while a device is there; before, the last discard ends first', async () => {
  const { shared, log, finish } = create();
  const discarded = shared.discard(NOTHING);
  const opened = shared.open('/dev/vfio/7', 'a');
  await shared.discard(NOTHING);
  expect(log).toEqual(['discard']);

  finish();
  await discarded;
  const device = await opened;
  await shared.discard(NOTHING);
  expect(log).toEqual(['discard', 'open', 'follow 000', 'hold']);

  await shared.close(device);
  void shared.discard(NOTHING);
  expect(log.at(-1)).toBe('discard');
});

const [GROUP, OTHER_GROUP] = ['/dev/vfio/7', '/dev/vfio/8'];
const MAPPING = { first: 4096n, last: 8191n, gpa: 0n, isReadable: true, isWritable: true };

test('behind the virtio-iommu a device reaches what is mapped for it alone', async () => {
  const { shared, log } = create();
  const [near, far] = [await shared.open(GROUP, 'a'), await shared.open(OTHER_GROUP, 'b', 'ram')];
  expect(shared.followerOf(near)).toBeUndefined();
  const follower = shared.followerOf(far);
  log.length = 0;
  await follower?.attached('nothing');
  await follower?.mapped(MAPPING);
  await follower?.unmapped(4096n, 8191n);
  expect(log).toEqual(['reach nothing', 'map 4096', 'unmap 4096']);

  log.length = 0;
  await shared.memoryChanged(); // of either
  expect(log).toEqual(['follow 000', 'follow 000']);

  log.length = 0;
  await shared.close(far);
  expect(log).toEqual(['reset', 'drop', 'close', 'container closed']);
  await follower?.attached('ram');
  await follower?.mapped(MAPPING);
  await follower?.unmapped(4096n, 8191n);
  expect(log).toHaveLength(4); // it is gone
  await shared.close(near);
  expect(log.slice(4)).toEqual(['reset', 'drop', 'close', 'container closed']);
});

test('one that cannot reach what it is to reach is told of', async () => {
  const { shared, state, warnings } = create();
  const follower = shared.followerOf(await shared.open(GROUP, 'a', 'ram'));
  state.fault = new Error('ENOMEM: no memory');
  await expect(follower?.attached('ram')).rejects.toThrow('ENOMEM');
  expect(warnings[0]).toContain('cannot reach all memory: ENOMEM');
});

test('one that is to reach nothing at first never has memory', async () => {
  const { shared, log } = create();
  await shared.open(GROUP, 'a', 'nothing');
  expect(log).toEqual(['open', 'reach nothing', 'follow 000', 'hold']);
});

test('behind the virtio-iommu a device has its group for itself', async () => {
  const { shared, log } = create();
  const behind = await shared.open(GROUP, 'a', 'ram');
  await shared.open(OTHER_GROUP, 'b');
  for (const [group, reach] of [
    [GROUP, 'ram'],
    [GROUP, undefined],
    [OTHER_GROUP, 'ram'],
  ] as const)
    await expect(shared.open(group, 'c', reach)).rejects.toMatchObject({
      syscall: 'virtual IOMMU',
    });
  await shared.close(behind);
  log.length = 0;
  await shared.open(GROUP, 'c', 'ram');
  expect(log).toContain('hold');
});

test("what the host's IOMMU maps nowhere is told", async () => {
  const { shared, state } = create();
  state.limits.ranges = [
    { first: 0x1000n, last: 0xfedf_ffffn },
    { first: 0xfef0_0000n, last: 2n ** 48n - 1n },
  ];
  const device = await shared.open(GROUP, 'a', 'ram');
  expect(shared.followerOf(device)?.reserved).toEqual([
    { first: 0n, last: 0xfffn },
    { first: 0xfee0_0000n, last: 0xfeef_ffffn },
    { first: 2n ** 48n, last: 2n ** 64n - 1n },
  ]);
});

test('an IOMMU of the host that maps larger pages alone is refused, and nothing is left', async () => {
  const { shared, log, state } = create();
  state.limits.pageSizes = (2n ** 16n) | (2n ** 21n);
  await expect(shared.open(GROUP, 'a', 'ram')).rejects.toMatchObject({ code: 'ENOTSUP' });
  expect(log).toEqual(['open', 'drop', 'close', 'container closed']);
  state.limits.pageSizes = 0n; // it does not say
  await shared.open(GROUP, 'a', 'ram');
});

test('nothing is discarded while a device is behind the virtio-iommu', async () => {
  const { shared, log } = create();
  await shared.open(GROUP, 'a', 'nothing');
  await shared.discard(NOTHING);
  expect(log).not.toContain('discard');
});

test('BARs may lie within a window, and nowhere else', () => {
  const { shared } = create();
  const places = [0x0fff, 0x1000, 0x1001].map((gpa) => shared.isWindow(gpa, 0x1000));
  expect(places).toEqual([false, true, false]);
});
