import { afterEach, beforeEach, expect, test, vi } from 'vitest';
import { Net } from '../../../../src/devices/virtio/net.ts';
import { NET } from '../../../../src/devices/virtio/net-features.ts';
import { openFiles } from '../../../support/fds.ts';
import { Driver } from '../../support/driver.ts';
import { FakeNetEngine, type FakeTaps, fakeNet, GONE, netConfig } from '../../support/fake-taps.ts';

const STATUS = 6;
const LINK_UP = 1;
const ANNOUNCE = 2;

let taps: FakeTaps;
let engines: FakeNetEngine[];
const cards: Net[] = [];
const warnings: string[] = [];

beforeEach(() => {
  ({ taps, engines } = fakeNet());
});

afterEach(async () => {
  for (const card of cards.splice(0)) await card[Symbol.asyncDispose]();
  warnings.length = 0;
  vi.restoreAllMocks();
});

function cardOf(card: object = {}, id = '_net0'): Net {
  const context = { id, onWarning: (message: string) => void warnings.push(message) };
  const made = new Net(netConfig(card), context);
  cards.push(made);
  return made;
}

/** A driver that took these features, or all. */
function started(card: object = {}, features?: bigint) {
  const driver = new Driver(cardOf(card));
  driver.start(features === undefined ? {} : { features });
  return driver;
}

const VERSION_1 = 1n << 32n;
const bitsOf = (features: bigint) =>
  Array.from({ length: 64 }, (_, bit) => bit).filter((bit) => (features >> BigInt(bit)) & 1n);

const PLAIN = [3, 5, 15, 16, 17, 21, 22, 28, 29];
const CSUM = [0, 1, 2];
const TSO = [7, 8, 9, 11, 12, 13];
const UFO = [10, 14];
const USO = [54, 55, 56];

test.each<[object, boolean, number[]]>([
  [{}, false, [...PLAIN, ...CSUM, ...TSO, ...UFO]],
  [{}, true, [...PLAIN, ...CSUM, ...TSO, ...UFO, ...USO]],
  [{ offload_ufo: false }, true, [...PLAIN, ...CSUM, ...TSO]],
  [{ offload_tso: false }, false, [...PLAIN, ...CSUM, ...UFO]],
  [{ offload_tso: false, offload_ufo: false }, true, [...PLAIN, ...CSUM]],
  [{ offload_csum: false, offload_tso: false, offload_ufo: false }, true, PLAIN],
])('a card with %j on a host with USO %s offers %j', (card, uso, bits) => {
  taps.uso = uso;

  expect(bitsOf(cardOf(card).features)).toEqual(bits.sort((a, b) => a - b));
});

test('the configuration space is as the specification lays it out', () => {
  taps.mtu = 9000;

  const { config } = cardOf({ mac: '12:34:56:78:90:ab', num_queues: 4 });

  expect(Buffer.from(config).toString('hex')).toBe('1234567890ab' + '0100' + '0200' + '2823');
});

test('each pair has two queues, and there is one for control', () => {
  expect(cardOf({ num_queues: 6, queue_size: 512 }).queueSizes).toEqual(Array(7).fill(512));
});

test('the MTU of a tap in another network namespace is what the config says, or left open', () => {
  taps.mtu = 0;

  const silent = cardOf({ fds: [5] });
  const told = cardOf({ fds: [6], mtu: 1400 });

  expect(silent.features & NET.MTU).toBe(0n);
  expect(told.features & NET.MTU).toBe(NET.MTU);
  expect(new DataView(told.config.buffer).getUint16(10, true)).toBe(1400);
});

test('the next driver is told the MTU that the tap has by then, unless the config says one', async () => {
  const follows = cardOf();
  const told = cardOf({ mtu: 1400 });
  taps.mtu = 9000;
  await follows.reset();
  await told.reset();

  new Driver(follows).start({ features: VERSION_1 });
  const mtuOf = ({ config }: Net) => new DataView(config.buffer).getUint16(10, true);
  expect([mtuOf(follows), mtuOf(told)]).toEqual([9000, 1400]);
  expect(engines[0]?.options.frameBytesMax).toBe(12 + 22 + 9000);
});

test.each<[bigint, number]>([
  [0n, 12 + 22 + 1500],
  [NET.GUEST_CSUM, 12 + 22 + 1500],
  [NET.GUEST_CSUM | NET.GUEST_TSO4, 12 + 22 + 65_535],
  [NET.GUEST_CSUM | NET.GUEST_UFO, 12 + 22 + 65_535],
])('a driver that takes features %i gets frames of up to %i bytes', (features, sizeBytes) => {
  started({}, VERSION_1 | features);

  expect(engines[0]?.options.frameBytesMax).toBe(sizeBytes);
});

test('the data plane is told what was negotiated, and begins with one pair', () => {
  started({ num_queues: 4 });

  const [engine] = engines;
  expect(engine?.options).toMatchObject({ id: '_net0', mergeRxBuffers: true });
  expect(engine?.options.taps).toHaveLength(2);
  expect(engine?.started).toHaveLength(4);
  expect(engine?.calls).toEqual([['setPairs', 1], ['start']]);
});

test('a driver without multi-queue and mergeable buffers has one pair, and gets none merged', () => {
  started({ num_queues: 4 }, VERSION_1 | NET.CTRL_VQ);

  const [engine] = engines;
  expect(engine?.options.mergeRxBuffers).toBe(false);
  expect(engine?.options.taps).toHaveLength(1);
  expect(engine?.started).toHaveLength(2);
});

const NO_FILTER = Uint8Array.of(0, 0, 1);
const PAIRS = (count: number) => Uint8Array.of(4, 0, count, 0);
const OK = Uint8Array.of(0);
const ERROR = Uint8Array.of(1);

test.each([
  [VERSION_1 | NET.CTRL_VQ | NET.MQ, 4],
  [VERSION_1 | NET.CTRL_VQ, 2],
])('a driver that takes %i has queue %i for control', async (features, queue) => {
  const driver = started({ num_queues: 4 }, features);

  expect(await driver.request(queue, NO_FILTER, 1)).toEqual(OK);
});

test('without CTRL_VQ no queue is for control', async () => {
  const driver = started({}, VERSION_1);
  const chain = driver.offer(2, NO_FILTER, 1);
  driver.kick(2);
  await new Promise((resolve) => setImmediate(resolve));

  expect(chain.completeCount).toBe(0);
});

test('a driver that takes more pairs gets frames on them, and on no others', async () => {
  const driver = started({ num_queues: 6 });
  taps.calls.length = 0;

  expect(await driver.request(6, PAIRS(2), 1)).toEqual(OK);

  expect(taps.callsOf('setQueue').map(([, on]) => on)).toEqual([true, true, false]);
  expect(engines[0]?.calls.at(-1)).toEqual(['setPairs', 2]);
});

test.each([0, 4])('%i pairs of three are refused', async (count) => {
  const driver = started({ num_queues: 6 });
  taps.calls.length = 0;

  expect(await driver.request(6, PAIRS(count), 1)).toEqual(ERROR);
  expect(taps.calls).toEqual([]);
});

test('the tap leaves to the guest what it takes, then what it switches on, and after it nothing', async () => {
  const driver = started();
  const csumAndTso4 = Uint8Array.of(5, 0, 0x82, 0, 0, 0, 0, 0, 0, 0);
  const hostTso4 = Uint8Array.of(5, 0, 0, 8, 0, 0, 0, 0, 0, 0);

  expect(await driver.request(2, csumAndTso4, 1)).toEqual(OK);
  expect(await driver.request(2, hostTso4, 1)).toEqual(ERROR);
  await driver.reset();

  expect(taps.callsOf('setOffloads')).toEqual([[0x1f], [3], [0]]);
});

test('a tap that does not do what a driver asks is an error for the driver, and told', async () => {
  const driver = started({ num_queues: 4 });
  taps.failures.set('setQueue', GONE);
  taps.failures.set('setOffloads', GONE);

  expect(await driver.request(4, PAIRS(2), 1)).toEqual(ERROR);
  expect(await driver.request(4, Uint8Array.of(5, 0, 2, 0, 0, 0, 0, 0, 0, 0), 1)).toEqual(ERROR);

  expect(warnings[0]).toContain('Network card _net0: EBADFD');
});

test('a tap that is taken away puts the link down, tells the driver and the log', () => {
  const driver = started();

  engines[0]?.options.onTapError('the tap vmtap0 is gone');

  expect(driver.read(0x4000 + STATUS, 2)).toBe(0);
  expect(driver.interrupts(0)).toBe(1);
  expect(warnings).toEqual(['Network card _net0: Its link is down: the tap vmtap0 is gone']);
});

test('a driver without STATUS is not told that the link is down', () => {
  const driver = started({}, VERSION_1);

  engines[0]?.options.onTapError('gone');

  expect(driver.interrupts(0)).toBe(0);
});

test('a data plane that was stopped says nothing of the next link', async () => {
  const driver = started();
  await driver.reset();
  driver.start();

  engines[0]?.options.onTapError('gone');

  expect(driver.read(0x4000 + STATUS, 2)).toBe(LINK_UP);
});

test('a card whose tap is gone can be reset, and started again', async () => {
  const driver = started({ num_queues: 4 });
  for (const call of ['setQueue', 'setOffloads']) taps.failures.set(call, GONE);
  engines[0]?.options.onTapError('gone');

  await driver.reset();
  driver.start();

  expect(driver.status).toBe(0xf);
  expect(engines).toHaveLength(2);
});

test('after a resume the driver is asked to announce itself, until it says that it did', async () => {
  const driver = started();
  await driver.pci.pause();
  driver.pci.resume();

  expect(driver.read(0x4000 + STATUS, 2)).toBe(LINK_UP | ANNOUNCE);
  expect(driver.interrupts(0)).toBe(1);
  expect(await driver.request(2, Uint8Array.of(3, 0), 1)).toEqual(OK);
  expect(driver.read(0x4000 + STATUS, 2)).toBe(LINK_UP);
});

test.each([undefined, VERSION_1 | NET.STATUS])(
  'nobody is asked to who cannot: not driven, or with features %s',
  async (features) => {
    const driver = features === undefined ? new Driver(cardOf()) : started({}, features);

    await driver.pci.pause();
    driver.pci.resume();

    expect(driver.read(0x4000 + STATUS, 2)).toBe(LINK_UP);
  },
);

test('a reset ends the data plane, and frames come to the first pair again', async () => {
  const driver = started({ num_queues: 4 });
  await driver.request(4, PAIRS(2), 1);
  driver.pci.resume();
  taps.calls.length = 0;

  await driver.reset();

  expect(engines[0]?.stop).toHaveBeenCalledTimes(1);
  expect(taps.callsOf('setQueue').map(([, on]) => on)).toEqual([true, false]);
  expect(driver.read(0x4000 + STATUS, 2)).toBe(LINK_UP);
});

test('pauses and resumes go to the data plane, if there is one', async () => {
  const card = cardOf();
  await card.pause();
  card.resume();
  const driver = started();

  await driver.pci.pause();
  driver.pci.resume();

  expect(engines).toHaveLength(1);
  expect(engines[0]?.pause).toHaveBeenCalledTimes(1);
  expect(engines[0]?.resume).toHaveBeenCalledTimes(1);
});

test('a data plane that does not start puts the card in need of a reset', () => {
  const card = cardOf();
  const needsReset = vi.fn();
  vi.spyOn(FakeNetEngine.prototype, 'start').mockImplementation(() => {
    throw new Error('EAGAIN: no thread');
  });

  card.activate({ features: VERSION_1, queues: [], configChanged: () => {}, needsReset });

  expect(needsReset.mock.calls[0]?.[0]).toContain('EAGAIN: no thread');
});

test('its files are open from the beginning to the end, and closed once', async () => {
  const card = cardOf({ num_queues: 4 });
  expect(openFiles(taps.folder)).toHaveLength(2);

  await card[Symbol.asyncDispose]();
  await card[Symbol.asyncDispose]();

  expect(openFiles(taps.folder)).toEqual([]);
});

test('the MAC address of the tap is told', () => {
  expect(cardOf().hostMac).toBe(taps.mac);
});

test('a card in its place gets that address too, if the tap is made with it', () => {
  expect(cardOf().kept).toEqual({ host_mac: taps.mac });
  taps.made = false;
  expect(cardOf().kept).toEqual({});
  expect(cardOf({ fds: [5] }).kept).toEqual({});
});

test('what was counted stays when the next driver begins', async () => {
  const card = cardOf();
  const driver = new Driver(card);
  const before = card.counters();
  driver.start();
  await driver.reset();
  driver.start();

  expect(before).toEqual({ rx_bytes: 0, tx_bytes: 0, rx_frames: 0, tx_frames: 0 });
  expect(card.counters()).toEqual({
    ...{ rx_bytes: 2000, tx_bytes: 400, rx_frames: 60, tx_frames: 8 },
  });
});

test.each([
  [
    1279,
    ['Network card _net0: The MTU of its tap is 1279: set it to at least 1280, as guests expect'],
  ],
  [1280, []],
  [0, []],
])('a tap whose MTU is %i is offered as it is, with the warnings %j', (mtu, expected) => {
  taps.mtu = mtu;

  const { features, config } = cardOf();

  expect(warnings).toEqual(expected);
  expect(new DataView(config.buffer).getUint16(10, true)).toBe(mtu);
  expect((features & NET.MTU) !== 0n).toBe(mtu !== 0);
});
