/** Who follows the mappings of a virtio-iommu by mappings of its own. */
import { beforeEach, describe, expect, test } from 'vitest';
import { Reader } from '../../../../src/bytes.ts';
import { Iommu } from '../../../../src/devices/virtio/iommu.ts';
import { IommuDomains } from '../../../../src/devices/virtio/iommu-domains.ts';
import { native } from '../../../../src/native.ts';
import type { IoDomains } from '../../../../src/native-iommu.ts';
import { attach, detach, map, pages, probe, unmap } from '../../../support/iommu-requests.ts';
import { DEVICE_CONFIG, Driver } from '../../support/driver.ts';
import { FakeEndpoint, FakeFollower } from '../../support/fake-iommu.ts';

const [OK, UNSUPPORTED, DEVICE_ERROR, INVALID, NO_ENTRY, FAULT, NO_MEMORY] = [0, 2, 3, 4, 6, 7, 8];
const ALL_RAM = [-1];
const BYPASS = 1;
const BYPASS_REGISTER = DEVICE_CONFIG + 36;

let domains: IommuDomains;
let driver: Driver;
let one: FakeFollower;
let two: FakeFollower;
let queues: FakeEndpoint;

/** Endpoints 8 and 16 follow, and 24 looks addresses up. */
beforeEach(async () => {
  domains = new IommuDomains(native, { addressBits: 64 });
  [one, two, queues] = [new FakeFollower(), new FakeFollower(), new FakeEndpoint()];
  await domains.addEndpoint(8, one);
  await domains.addEndpoint(16, two);
  await domains.addEndpoint(24, queues);
  driver = new Driver(new Iommu(domains));
  driver.start();
});

const status = async (request: Uint8Array) => (await driver.request(0, request, 4))[0];
/** All at once, and the answers. */
const statuses = (...requests: Uint8Array[]) => Promise.all(requests.map(status));

test('it reaches RAM at first, then what is mapped, then RAM', async () => {
  expect(one.pages).toEqual(ALL_RAM);
  await statuses(attach(1, 8), map(1, pages(1)), map(1, pages(5)), unmap(1, pages(1)));
  expect(one.pages).toEqual([5]);
  expect(await status(attach(1, 16))).toBe(OK); // to what is there
  expect([one.pages, two.pages]).toEqual([[5], [5]]);
  expect(await statuses(map(1, pages(7)), detach(1, 8))).toEqual([OK, OK]);
  expect([one.pages, two.pages]).toEqual([ALL_RAM, [5, 7]]);
});

test('requests that come at once are told one by one, in order', async () => {
  const asked = [
    attach(1, 8),
    map(1, pages(1)),
    unmap(1, pages(1)),
    map(1, pages(1)),
    detach(1, 8),
  ];
  expect(await statuses(...asked, map(1, pages(2)))).toEqual([OK, OK, OK, OK, OK, NO_ENTRY]);
  expect(one.log).toEqual(['ram', 'domain', 'map', 'unmap', 'map', 'ram']);
});

test('an UNMAP is answered when it reaches that no longer; of nothing, it is not told', async () => {
  await statuses(attach(1, 8), map(1, pages(1)));
  expect(await status(unmap(1, pages(1)))).toBe(OK);
  expect(one.pages).toEqual([]);
  one.log.length = 0;
  expect(await status(unmap(1, pages(1)))).toBe(OK);
  expect(one.log).toEqual([]);
});

test.each([
  ['EFAULT', FAULT],
  ['EINVAL', INVALID],
  ['ENOMEM', NO_MEMORY],
  ['ENOSPC', NO_MEMORY],
  ['EIO', DEVICE_ERROR],
])('what one cannot reach for %s, nobody has', async (code, expected) => {
  await statuses(attach(1, 8), attach(1, 16), attach(1, 24));
  two.refuses = () => code;
  expect(await status(map(1, pages(3)))).toBe(expected);
  expect([one.pages, two.pages]).toEqual([[], []]);
  two.refuses = () => undefined;
  expect(await status(map(1, pages(3)))).toBe(OK); // nothing is left there
  expect([one.pages, two.pages]).toEqual([[3], [3]]);
});

test('mappings that are refused take nothing of what there may be', async () => {
  const few = new IommuDomains(native, { addressBits: 64, mappingsMax: 1 });
  const follower = new FakeFollower();
  await few.addEndpoint(8, follower);
  await few.attach(1, 8, 0, true);
  const request = { domain: 1, first: 0n, last: 4095n, gpa: 0n, flags: 3 };
  follower.refuses = () => 'EFAULT';
  for (let i = 0; i < 3; i++) expect(await few.map(request)).toBe(FAULT);
  follower.refuses = () => undefined;
  expect(await few.map(request)).toBe(OK);
  expect(await few.map({ ...request, first: 4096n, last: 8191n })).toBe(NO_MEMORY);
});

test('one that cannot reach all of a domain stays where it was', async () => {
  await statuses(attach(1, 8), map(1, pages(1)), attach(2, 16), map(2, pages(2)));
  two.refuses = (mapping) =>
    mapping !== 'ram' && mapping.first === 0x1000n ? 'ENOMEM' : undefined;
  expect(await status(attach(1, 16))).toBe(UNSUPPORTED);
  expect([one.pages, two.pages]).toEqual([[1], [2]]);
  expect(await statuses(map(2, pages(3)), map(1, pages(4)))).toEqual([OK, OK]);
  expect([one.pages, two.pages]).toEqual([
    [1, 4],
    [2, 3],
  ]);
  expect(await status(detach(1, 16))).toBe(INVALID);
});

test('a new domain that one cannot be in is none', async () => {
  one.refuses = () => 'ENOMEM';
  expect(await status(attach(1, 8, { flags: BYPASS }))).toBe(UNSUPPORTED);
  expect(await status(map(1, pages(1)))).toBe(NO_ENTRY);
  expect(one.pages).toEqual([]);
});

test('one that cannot reach RAM when it is in no domain any more reaches nothing', async () => {
  await statuses(attach(1, 8), map(1, pages(1)));
  one.refuses = () => 'ENOMEM';
  expect(await status(detach(1, 8))).toBe(DEVICE_ERROR);
  expect(one.pages).toEqual([]);
  expect(await status(map(1, pages(2)))).toBe(NO_ENTRY);
});

test('bypass decides what it reaches in no domain, and in one of bypass it is RAM', async () => {
  await status(attach(1, 8));
  driver.write(BYPASS_REGISTER, 1, 0);
  await domains.settled();
  expect([one.pages, two.pages]).toEqual([[], []]);
  expect(two.log.at(-1)).toBe('nothing');
  expect(await status(attach(2, 16, { flags: BYPASS }))).toBe(OK);
  expect(two.pages).toEqual(ALL_RAM);
  driver.write(BYPASS_REGISTER, 1, 1);
  await domains.settled();
  expect(one.log.at(-1)).toBe('domain'); // it stays there
});

test('an ATTACH that is under way when bypass changes is what counts', async () => {
  const answer = status(attach(1, 8));
  await new Promise((resolve) => setImmediate(resolve));
  driver.write(BYPASS_REGISTER, 1, 0);
  expect(await answer).toBe(OK);
  await domains.settled();
  expect(await status(map(1, pages(1)))).toBe(OK);
  expect(one.pages).toEqual([1]);
});

test('a reset has all reach RAM again', async () => {
  await statuses(attach(1, 8), map(1, pages(1)), attach(1, 16));
  await driver.reset();
  expect([one.pages, two.pages]).toEqual([ALL_RAM, ALL_RAM]);
});

test('the end of all devices maps nothing for anybody', async () => {
  await statuses(attach(1, 8), map(1, pages(1)));
  one.log.length = 0;
  domains.close();
  await driver.pci[Symbol.asyncDispose]();
  expect(one.log).toEqual([]);
});

describe('one whose device goes', () => {
  test('hears no more, and takes its domain along', async () => {
    await statuses(attach(1, 8), map(1, pages(1)));
    one.log.length = 0;
    domains.removeEndpoint(8);
    expect(await status(map(1, pages(2)))).toBe(NO_ENTRY);
    expect(one.log).toEqual([]);
  });

  test('while it is told is in no domain then', async () => {
    await status(attach(1, 16));
    const answer = status(attach(1, 8));
    await new Promise((resolve) => setImmediate(resolve));
    domains.removeEndpoint(8);
    expect(await answer).toBe(NO_ENTRY);
    one.log.length = 0;
    expect(await status(map(1, pages(2)))).toBe(OK);
    expect([one.log, two.pages]).toEqual([[], [2]]);
  });
});

test('a PROBE tells what cannot be mapped for it', async () => {
  const interrupts = { first: 0xfee0_0000n, last: 0xfeef_ffffn }; // which are told anyhow
  one.reserved = [interrupts, { first: 1n << 48n, last: 2n ** 64n - 1n }];
  const answer = new Reader(await driver.request(0, probe(8), 516));
  expect([answer.u16(24), answer.u16(26), answer.u32(28)]).toEqual([1, 20, 0]);
  expect([answer.bigU64(32), answer.bigU64(40)]).toEqual([1n << 48n, 2n ** 64n - 1n]);
  expect(answer.u16(48)).toBe(0);
  one.reserved = Array.from({ length: 100 }, (_, i) => ({ first: BigInt(i), last: BigInt(i) }));
  expect(await driver.request(0, probe(8), 516)).toHaveLength(516); // as many as there is room for
  expect(new Reader(await driver.request(0, probe(16), 516)).u16(24)).toBe(0);
});

test('vCPUs map by themselves only in domains that nobody follows', async () => {
  const log: string[] = [];
  class Recorder extends native.IoDomains {
    override put(...[id, domain]: Parameters<IoDomains['put']>): void {
      log.push(`put ${id}`);
      super.put(id, domain);
    }
    override remove(id: number): void {
      log.push(`remove ${id}`);
      super.remove(id);
    }
  }
  const { IoDomain } = native;
  domains = new IommuDomains({ IoDomain, IoDomains: Recorder }, { addressBits: 64 });
  await domains.addEndpoint(8, one);
  await domains.addEndpoint(24, queues);
  driver = new Driver(new Iommu(domains));
  driver.start();
  one.attached = async (to) => void log.push(typeof to === 'string' ? to : 'follows');

  await statuses(attach(1, 24), attach(1, 8), detach(1, 8), detach(1, 24));
  expect(log).toEqual(['put 1', 'remove 1', 'follows', 'ram', 'put 1', 'remove 1']);
});
