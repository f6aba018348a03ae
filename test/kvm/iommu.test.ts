/** Requests of virtio-iommu while a device is at work, by the core's own queues and mappings. */
import { setImmediate as nextTurn } from 'node:timers/promises';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { Iommu } from '../../src/devices/virtio/iommu.ts';
import { IommuDomains } from '../../src/devices/virtio/iommu-domains.ts';
import { type Chain, type GuestMemory, native, type Virtqueue } from '../../src/native.ts';
import { attach, detach, map, pages, unmap } from '../support/iommu-requests.ts';
import { until } from '../support/micro-guest.ts';
import { RingDriver } from '../support/ring-driver.ts';
import { Driver } from '../unit/support/driver.ts';

const OK = Uint8Array.of(0, 0, 0, 0);
/** The page of the driver's buffer, and those of its rings. */
const BUFFER = pages(0x20);
const RINGS = pages(0x10, 3);

let memory: GuestMemory;
let device: RingDriver;
let queue: Virtqueue;
let iommu: Driver;
let chains: Chain[];

const ask = (request: Uint8Array) => iommu.request(0, request, 4);

/** A request that is not answered at once. */
async function waiting(request: Uint8Array): Promise<{ answer: Promise<Uint8Array> }> {
  const chain = iommu.offer(0, request, 4);
  iommu.kick(0);
  for (let i = 0; i < 10; i++) await nextTurn();
  expect(chain.completeCount).toBe(0);
  return { answer: chain.done };
}

/** One byte to be written, taken by the device. */
async function takeChain(): Promise<Chain> {
  device.send(0, [{ gpa: 0x2_0000, sizeBytes: 1, write: true }]);
  await until(() => chains.length > 0);
  return chains.shift() as Chain;
}

/** A device whose rings and buffer are mapped where they lie, and that keeps what it takes. */
beforeEach(async () => {
  memory = new native.GuestMemory();
  memory.addRegion({ gpa: 0, sizeBytes: 1 << 20, shared: false, thp: false });
  const dma = new native.DmaSpace();
  const domains = new IommuDomains(native, { addressBits: 64 });
  device = new RingDriver(memory, { dma });
  void domains.addEndpoint(8, { space: dma, kick: () => device.kick.signal() });
  iommu = new Driver(new Iommu(domains));
  iommu.start();
  expect(await ask(attach(1, 8))).toEqual(OK);
  for (const range of [BUFFER, RINGS])
    expect(await ask(map(1, { ...range, gpa: range.first }))).toEqual(OK);
  queue = device.device();
  chains = [];
  queue.onKick(() => {
    for (let chain = queue.take(); chain; chain = queue.take()) chains.push(chain);
  });
});

afterEach(async () => {
  queue.close();
  device.close();
  await iommu.pci[Symbol.asyncDispose]();
  await memory.close();
});

test('an UNMAP of what nobody uses is answered at once', async () => {
  (await takeChain()).complete(1);
  expect(await ask(unmap(1, BUFFER))).toEqual(OK);
});

test.each([
  ['an UNMAP', unmap(1, BUFFER)],
  ['a DETACH', detach(1, 8)],
  ['an ATTACH to another domain', attach(2, 8)],
])('%s is answered when the chain that is under way is complete', async (_, request) => {
  const chain = await takeChain();
  const { answer } = await waiting(request);
  chain.write(Uint8Array.of(0x5a));
  chain.complete(1);
  expect(await answer).toEqual(OK);
});

test('an UNMAP is answered when the device is reset', async () => {
  await takeChain();
  const { answer } = await waiting(unmap(1, BUFFER));
  queue.close();
  expect(await answer).toEqual(OK);
});

test('rings that are unmapped break their queue, and the answer waits for that alone', async () => {
  (await takeChain()).complete(1);
  expect(await ask(unmap(1, RINGS))).toEqual(OK);
  await until(() => device.broken.length > 0);
  expect(device.broken).toEqual(['ring that the IOMMU does not map so']);
});

test('a paused device holds no rings', async () => {
  (await takeChain()).complete(1);
  await queue.pause();
  expect(await ask(unmap(1, RINGS))).toEqual(OK);
  expect(await ask(map(1, { ...RINGS, gpa: RINGS.first }))).toEqual(OK);
  queue.resume();
  (await takeChain()).complete(1);
  expect(device.broken).toEqual([]);
});

test('a device is kept from what it has no mapping for', async () => {
  device.send(0, [{ gpa: 0x3_0000, sizeBytes: 1, write: true }]);
  await until(() => device.broken.length > 0);
  expect(device.broken).toEqual(['buffer that the IOMMU does not map so']);
});
