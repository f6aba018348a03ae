import { expect, test } from 'vitest';
import { SharedPassthrough } from '../../../src/vmm/passthrough.ts';
import { NO_MEMORY } from '../support/fake-host.ts';
import { FakePassthrough, FakeVfioDevice } from '../support/fake-vfio.ts';

const BLOCK = 2 << 20;

function create() {
  const log: string[] = [];
  let discards: (() => void)[] = [];
  const state = { fault: undefined as Error | undefined, leftOutBytes: 0 };
  class Container {
    async follow(_: unknown, blocks: { plugged: Uint8Array }[]): Promise<void> {
      log.push(`follow ${blocks.map(({ plugged }) => [...plugged].join('')).join(' ')}`);
      if (state.fault) throw state.fault;
    }
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

test('BARs may lie within a window, and nowhere else', () => {
  const { shared } = create();
  const places = [0x0fff, 0x1000, 0x1001].map((gpa) => shared.isWindow(gpa, 0x1000));
  expect(places).toEqual([false, true, false]);
});
