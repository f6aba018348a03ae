import fc from 'fast-check';
import { beforeEach, expect, test, vi } from 'vitest';
import { type NetCommands, NetControl } from '../../../../src/devices/virtio/net-control.ts';
import { NET } from '../../../../src/devices/virtio/net-features.ts';
import { FakeChain, FakeEventFd, FakeVirtqueue, NO_MEMORY } from '../../support/fake-host.ts';

const ALL = NET.CTRL_VQ | NET.MQ | NET.CTRL_GUEST_OFFLOADS | NET.GUEST_ANNOUNCE;
const OK = [0];
const ERROR = [1];

const commands = {
  setPairs: vi.fn((count: number) => count >= 1 && count <= 4),
  setGuestOffloads: vi.fn((offloads: bigint) => offloads < 2n ** 63n),
  acknowledgeAnnouncement: vi.fn(),
} satisfies NetCommands;

beforeEach(() => vi.clearAllMocks());

function newQueue(): FakeVirtqueue {
  const parts = { descGpa: 0, availGpa: 0, usedGpa: 0, indirect: true, eventIdx: true };
  const [kick, irq] = [new FakeEventFd(), new FakeEventFd()];
  const onBroken = () => {};
  return new FakeVirtqueue({ ...parts, memory: NO_MEMORY, size: 256, kick, irq, onBroken });
}

/** The answer to a command of these bytes. */
async function ask(bytes: readonly number[], { features = ALL, room = 1 } = {}) {
  const queue = newQueue();
  new NetControl(queue, features, commands);
  const chain = new FakeChain(Uint8Array.from(bytes), room);
  queue.push(chain);
  queue.options.kick.signal();
  return [...(await chain.done)];
}

test.each<[string, number[], number[]]>([
  ['1 pair', [4, 0, 1, 0], OK],
  ['4 pairs', [4, 0, 4, 0], OK],
  ['more pairs than there are', [4, 0, 5, 0], ERROR],
  ['0 pairs', [4, 0, 0, 0], ERROR],
  ['512 pairs', [4, 0, 0, 2], ERROR],
  ['pairs in one byte', [4, 0, 1], ERROR],
  ['pairs in three bytes', [4, 0, 1, 0, 0], ERROR],
  ['RSS', [4, 1, 0, 0], ERROR],
  ['offloads', [5, 0, 2, 0, 0, 0, 0, 0, 0, 0], OK],
  ['offloads that cannot be', [5, 0, 0, 0, 0, 0, 0, 0, 0, 0x80], ERROR],
  ['offloads in seven bytes', [5, 0, 2, 0, 0, 0, 0, 0, 0], ERROR],
  ['an announcement was made', [3, 0], OK],
  ['an announcement, and more', [3, 0, 0], ERROR],
  ['receive all', [0, 0, 1], OK],
  ['receive no broadcasts', [0, 5, 1], OK],
  ['a receive mode that there is not', [0, 6, 1], ERROR],
  ['a VLAN', [2, 0, 5, 0], OK],
  ['no VLAN', [2, 1, 5, 0], OK],
  ['another MAC address', [1, 1, 2, 0, 0, 0, 0, 1], ERROR],
  ['a class that there is not', [0xff, 0], ERROR],
  ['half a header', [4], ERROR],
  ['nothing', [], ERROR],
])('%s, %j: answered with %j', async (_, bytes, answer) => {
  expect(await ask(bytes)).toEqual(answer);
});

test('pairs and offloads are those that the driver named', async () => {
  await ask([4, 0, 3, 0]);
  await ask([5, 0, 0x82, 0x01, 0, 0, 0, 0, 0x40, 0]);
  await ask([3, 0]);

  expect(commands.setPairs.mock.calls).toEqual([[3]]);
  expect(commands.setGuestOffloads.mock.calls).toEqual([[0x40_0000_0000_0182n]]);
  expect(commands.acknowledgeAnnouncement).toHaveBeenCalledTimes(1);
});

test.each([
  [NET.MQ, [4, 0, 1, 0]],
  [NET.CTRL_GUEST_OFFLOADS, [5, 0, 2, 0, 0, 0, 0, 0, 0, 0]],
  [NET.GUEST_ANNOUNCE, [3, 0]],
])('without feature %i, %j is an error and does nothing', async (feature, bytes) => {
  expect(await ask(bytes, { features: ALL & ~feature })).toEqual(ERROR);
  for (const command of Object.values(commands)) expect(command).not.toHaveBeenCalled();
});

test('a command without room for an answer does nothing, and comes back', async () => {
  expect(await ask([4, 0, 1, 0], { room: 0 })).toEqual([]);
  expect(commands.setPairs).not.toHaveBeenCalled();
});

test('any bytes are answered, with one byte', async () => {
  const kind = fc.constantFrom(0, 1, 2, 3, 4, 5, 6, 0xff);
  const bytes = fc.tuple(kind, fc.nat(7), fc.array(fc.nat(255), { maxLength: 40 }));
  await fc.assert(
    fc.asyncProperty(bytes, fc.nat(300), async ([kind, name, rest], room) => {
      const answer = await ask([kind, name, ...rest], { room });
      expect(room === 0 ? [[]] : [OK, ERROR]).toContainEqual(answer);
    }),
  );
});

test('commands that take long leave each turn of the loop to others', async () => {
  let now = 0;
  vi.spyOn(performance, 'now').mockImplementation(() => now);
  commands.setPairs.mockImplementation(() => {
    now += 1; // ms
    return true;
  });
  const queue = newQueue();
  const onKick = vi.spyOn(queue, 'onKick');
  new NetControl(queue, ALL, commands);
  const chains = Array.from({ length: 10 }, () => new FakeChain(Uint8Array.of(4, 0, 1, 0), 1));
  for (const chain of chains) queue.push(chain);

  await Promise.all(chains.map(({ done }) => done));

  expect(onKick.mock.calls.length).toBe(6); // two commands a turn
  vi.restoreAllMocks();
});
