import { describe, expect, test } from 'vitest';
import { Reader, Writer } from '../../../../src/bytes.ts';
import { Iommu } from '../../../../src/devices/virtio/iommu.ts';
import { IommuDomains } from '../../../../src/devices/virtio/iommu-domains.ts';
import { native } from '../../../../src/native.ts';
import { attach, detach, map, pages, probe, unmap } from '../../../support/iommu-requests.ts';
import { DEVICE_CONFIG, Driver, type StartOptions } from '../../support/driver.ts';
import { FakeEndpoint } from '../../support/fake-iommu.ts';

const OK = 0;
const INVALID = 4;
const RANGE = 5;
const NO_ENTRY = 6;
const NO_MEMORY = 8;

const [BYPASS, MAP_UNMAP, BYPASS_CONFIG] = [1, 1n << 2n, 1n << 6n];
const TOP = 2n ** 64n - 1n;
const BYPASS_REGISTER = DEVICE_CONFIG + 36;

interface BenchOptions extends StartOptions {
  addressBits?: number;
  mappingsMax?: number;
}

/** An IOMMU that a driver runs, with endpoints 8 and 16. */
function bench({ addressBits = 64, mappingsMax = 100, ...options }: BenchOptions = {}) {
  const domains = new IommuDomains(native, { addressBits, mappingsMax });
  const [eight, sixteen] = [new FakeEndpoint(), new FakeEndpoint()];
  void domains.addEndpoint(8, eight);
  void domains.addEndpoint(16, sixteen);
  const driver = new Driver(new Iommu(domains));
  driver.start(options);
  const ask = (request: Uint8Array, writableBytes = 4) => driver.request(0, request, writableBytes);
  const status = async (request: Uint8Array) => {
    const answer = await ask(request);
    expect(answer.subarray(1)).toEqual(new Uint8Array(3));
    return answer[0];
  };
  return { domains, driver, eight, sixteen, ask, status };
}

test('the configuration tells of page sizes, ranges, room for a probe, and bypass', () => {
  const { driver } = bench({ addressBits: 48 });
  const words = Array.from({ length: 10 }, (_, i) => driver.read(DEVICE_CONFIG + 4 * i, 4));
  expect(words).toEqual([0x20_1000, 0, 0, 0, 0xffff_ffff, 0xffff, 0, 0xffff_ffff, 512, 1]);
  expect(driver.offered & 0x7fn).toBe(0b101_0101n);
  expect(bench().driver.offered & 1n).toBe(0n);
});

test('an endpoint goes by RAM, then by its domain, and by RAM again', async () => {
  const { eight, sixteen, status } = bench();
  expect(eight.goes).toBe('by RAM');
  expect(await status(attach(1, 8))).toBe(OK);
  expect(eight.goes).toBeInstanceOf(native.IoDomain);
  expect(sixteen.goes).toBe('by RAM');
  expect(await status(attach(1, 16))).toBe(OK);
  expect(sixteen.goes).toBe(eight.goes);
  expect(await status(detach(1, 16))).toBe(OK);
  expect(sixteen.goes).toBe('by RAM');
  expect(eight.goes).toBeInstanceOf(native.IoDomain);
});

test('without bypass, an endpoint without a domain goes nowhere', async () => {
  const { driver, eight, sixteen, status } = bench();
  await status(attach(1, 8));
  driver.write(BYPASS_REGISTER, 1, 0);
  expect([driver.read(BYPASS_REGISTER, 1), sixteen.goes]).toEqual([0, 'nowhere']);
  expect(eight.goes).toBeInstanceOf(native.IoDomain);
  await status(detach(1, 8));
  expect(eight.goes).toBe('nowhere');
  driver.write(BYPASS_REGISTER, 1, 2); // neither 0 nor 1
  expect([driver.read(BYPASS_REGISTER, 1), sixteen.goes]).toEqual([0, 'nowhere']);
  driver.write(BYPASS_REGISTER, 1, 1);
  expect([driver.read(BYPASS_REGISTER, 1), sixteen.goes]).toEqual([1, 'by RAM']);
});

test('a domain in bypass has its endpoints go by RAM, and no mappings', async () => {
  const { driver, eight, status } = bench();
  driver.write(BYPASS_REGISTER, 1, 0);
  expect(await status(attach(1, 8, { flags: BYPASS }))).toBe(OK);
  expect(eight.goes).toBe('by RAM');
  expect(await status(map(1, pages(1)))).toBe(INVALID);
  expect(await status(unmap(1, pages(1)))).toBe(INVALID);
  expect(await status(attach(1, 16))).toBe(INVALID);
  expect(await status(attach(1, 16, { flags: BYPASS }))).toBe(OK);
});

test('a driver that has not accepted them has no domains in bypass, and no mappings', async () => {
  const { driver, status, ask } = bench({ features: (1n << 32n) | MAP_UNMAP });
  expect(driver.offered & BYPASS_CONFIG).toBe(BYPASS_CONFIG);
  expect(await status(attach(1, 8, { flags: BYPASS }))).toBe(INVALID);
  const without = bench({ features: 1n << 32n });
  expect(await without.status(attach(1, 8))).toBe(OK);
  expect(await without.ask(map(1, pages(1)))).toHaveLength(0);
  expect(await without.ask(unmap(1, pages(1)))).toHaveLength(0);
  expect(await ask(map(1, pages(1)))).toEqual(Uint8Array.of(NO_ENTRY, 0, 0, 0));
});

describe('a request that cannot be', () => {
  test.each<[what: string, request: Uint8Array, expected: number]>([
    ['ATTACH of an endpoint that is not there', attach(1, 9), NO_ENTRY],
    ['ATTACH with a flag that is none', attach(1, 8, { flags: 2 }), INVALID],
    ['ATTACH with reserved bits', attach(1, 8, { reserved: 1 }), INVALID],
    ['ATTACH of a domain that is otherwise', attach(7, 16, { flags: BYPASS }), INVALID],
    ['DETACH of an endpoint that is not there', detach(7, 9), NO_ENTRY],
    ['DETACH from a domain that is not there', detach(1, 8), INVALID],
    ['DETACH of an endpoint that is not in it', detach(7, 16), INVALID],
    ['MAP in a domain that is not there', map(1, pages(1)), NO_ENTRY],
    ['MAP with a flag that is none', map(7, { ...pages(1), flags: 4 }), INVALID],
    ['MAP from within a page', map(7, { ...pages(1), first: 0x1001n }), RANGE],
    ['MAP to within a page', map(7, { ...pages(1), last: 0x1ffen }), RANGE],
    ['MAP of a place within a page', map(7, { ...pages(1), gpa: 0x10n }), RANGE],
    ['MAP that ends before it begins', map(7, { first: 0x2000n, last: 0xfffn }), RANGE],
    ['MAP of nothing', map(7, { first: 0x2000n, last: 0x1fffn }), RANGE],
    [
      'MAP of where physical addresses end',
      map(7, { ...pages(1, 2), gpa: 2n ** 52n - 4096n }),
      RANGE,
    ],
    ['MAP of all addresses, with no end', map(7, { first: 0n, last: TOP }), RANGE],
    ['MAP over where interrupts are sent', map(7, pages(0xfed00, 0x300)), INVALID],
    ['MAP of its last page', map(7, pages(0xfeeff)), INVALID],
    ['MAP over what is mapped', map(7, pages(0x99, 3)), INVALID],
    ['MAP of the same again', map(7, pages(0x100, 4)), INVALID],
    ['UNMAP in a domain that is not there', unmap(1, pages(1)), NO_ENTRY],
    ['UNMAP of part of a mapping', unmap(7, pages(0x100, 3)), RANGE],
    ['UNMAP of the middle of one', unmap(7, pages(0x101)), RANGE],
    ['UNMAP from within a page', unmap(7, { first: 0x10_0001n, last: TOP }), RANGE],
    ['UNMAP that ends before it begins', unmap(7, { first: 2n, last: 1n }), RANGE],
  ])('%s: refused, and nothing changes', async (_, request, expected) => {
    const { status, eight } = bench();
    await status(attach(7, 8));
    await status(map(7, pages(0x9b)));
    await status(map(7, pages(0x100, 4)));
    const { goes } = eight;

    expect(await status(request)).toBe(expected);

    expect(eight.goes).toBe(goes);
    expect(await status(map(7, pages(0x9a)))).toBe(OK);
    expect(await status(map(7, pages(0x104)))).toBe(OK);
    expect(await status(unmap(7, pages(0x100, 4)))).toBe(OK);
  });

  test('has its first and last pages where addresses have fewer bits', async () => {
    const { status } = bench({ addressBits: 20 });
    await status(attach(1, 8));
    expect(await status(map(1, pages(0x100)))).toBe(RANGE);
    expect(await status(map(1, pages(0xff, 2)))).toBe(RANGE);
    expect(await status(map(1, pages(0, 0x100)))).toBe(OK);
    expect(await status(unmap(1, { first: 0n, last: TOP }))).toBe(OK);
  });
});

test('the last page of 64 bits is mapped and unmapped', async () => {
  const { status } = bench();
  await status(attach(1, 8));
  const last = { first: TOP - 4095n, last: TOP };
  expect(await status(map(1, last))).toBe(OK);
  expect(await status(map(1, { ...last, gpa: 4096n }))).toBe(INVALID);
  expect(await status(unmap(1, last))).toBe(OK);
});

test('mappings are bounded, over all domains, and what goes makes room', async () => {
  const { status } = bench({ mappingsMax: 4 });
  await status(attach(1, 8));
  await status(attach(2, 16));
  for (const page of [1, 2, 3]) expect(await status(map(1, pages(page)))).toBe(OK);
  expect(await status(map(2, pages(1)))).toBe(OK);
  expect(await status(map(2, pages(2)))).toBe(NO_MEMORY);
  expect(await status(unmap(1, pages(2)))).toBe(OK);
  expect(await status(map(2, pages(2)))).toBe(OK);
  expect(await status(map(2, pages(3)))).toBe(NO_MEMORY);
  expect(await status(attach(1, 16))).toBe(OK); // the last to leave takes its domain along
  expect(await status(map(2, pages(3)))).toBe(NO_ENTRY);
  for (const page of [4, 5]) expect(await status(map(1, pages(page)))).toBe(OK);
  expect(await status(map(1, pages(6)))).toBe(NO_MEMORY);
});

test('a domain that was left by all is another when it is there again', async () => {
  const { status } = bench();
  await status(attach(1, 8));
  await status(map(1, pages(1)));
  await status(detach(1, 8));
  expect(await status(map(1, pages(1)))).toBe(NO_ENTRY);
  await status(attach(1, 8));
  expect(await status(map(1, pages(1)))).toBe(OK);
});

test('a reset has all endpoints leave, and keeps bypass as it is', async () => {
  const { driver, eight, status } = bench();
  driver.write(BYPASS_REGISTER, 1, 0);
  await status(attach(1, 8));
  await status(map(1, pages(1)));
  await driver.reset();
  expect([eight.goes, driver.read(BYPASS_REGISTER, 1)]).toEqual(['nowhere', 0]);
  driver.start();
  expect(await status(map(1, pages(1)))).toBe(NO_ENTRY);
});

test('an endpoint whose device is gone is none, and its domain goes with it', async () => {
  const { domains, eight, status } = bench();
  await status(attach(1, 8));
  domains.removeEndpoint(8);
  expect(eight.goes).toBe('nowhere'); // bypass or not: its queues may still be looked at
  expect(await status(map(1, pages(1)))).toBe(NO_ENTRY);
  expect(await status(attach(1, 8))).toBe(NO_ENTRY);
});

describe('PROBE', () => {
  test('tells where interrupts are sent', async () => {
    const answer = await bench().ask(probe(8), 516);
    const read = new Reader(answer);
    expect([read.u16(0), read.u16(2), read.u32(4)]).toEqual([1, 20, 1]);
    expect([read.u64(8), read.u64(16)]).toEqual([0xfee0_0000, 0xfeef_ffff]);
    expect(answer.subarray(24)).toEqual(new Uint8Array(512 - 24 + 4));
  });

  test('of an endpoint that is not there, or without room, says so at the end', async () => {
    const { ask } = bench();
    const failed = (bytes: number, status: number) => new Writer(bytes).u8(bytes - 4, status).bytes;
    expect(await ask(probe(9), 516)).toEqual(failed(516, NO_ENTRY));
    expect(await ask(probe(9), 4)).toEqual(failed(4, NO_ENTRY));
    expect(await ask(probe(8), 515)).toEqual(failed(515, INVALID));
  });
});

test('what is no request goes back as it is', async () => {
  const { ask } = bench();
  const whole = [attach(1, 8), detach(1, 8), map(1, pages(1)), unmap(1, pages(1)), probe(8)];
  for (const request of whole) {
    expect(await ask(request.subarray(0, -1))).toHaveLength(0);
    expect(await ask(request, 3)).toHaveLength(0);
  }
  for (const type of [0, 6, 255])
    expect(await ask(new Writer(72).u8(0, type).bytes)).toHaveLength(0);
  expect(await ask(new Uint8Array(0))).toHaveLength(0);
});

test('more room than the answer takes is left alone', async () => {
  expect(await bench().ask(attach(1, 8), 100)).toEqual(Uint8Array.of(OK, 0, 0, 0));
});

describe('what is under way', () => {
  const turn = () => new Promise((resolve) => setImmediate(resolve));
  const gate = () => {
    let open = () => {};
    const passed = new Promise<void>((resolve) => {
      open = resolve;
    });
    return { open, passed };
  };

  test.each<[what: string, request: Uint8Array]>([
    ['another ATTACH', attach(2, 8)],
    ['a DETACH', detach(1, 8)],
  ])('is waited for by %s, whose endpoint is kicked', async (_, request) => {
    const { driver, eight, status } = bench();
    await status(attach(1, 8));
    const { open, passed } = gate();
    eight.underWay = passed;
    const chain = driver.offer(0, request, 4);
    driver.kick(0);
    await turn();
    expect([chain.completeCount, eight.kickCount]).toEqual([0, 1]);
    expect(await status(map(2, pages(1)))).toBe(request[0] === 1 ? OK : NO_ENTRY); // others go on
    open();
    expect(await chain.done).toEqual(Uint8Array.of(OK, 0, 0, 0));
  });

  test('is waited for by a reset, after which nothing is answered', async () => {
    const { driver, eight, status } = bench();
    await status(attach(1, 8));
    const { open, passed } = gate();
    eight.underWay = passed;
    const chain = driver.offer(0, detach(1, 8), 4);
    driver.kick(0);
    await turn();
    driver.set('status', 0);
    await turn();
    expect(driver.status).not.toBe(0);
    open();
    await driver.reset();
    expect(chain.completeCount).toBe(0); // its queue is no more
  });
});

describe('vCPUs that kick serve requests', () => {
  test('unless the driver has not accepted that there are mappings', () => {
    const { driver, domains } = bench();
    expect(driver.queue(0).sharedWith).toBe(domains.unfollowed);
    expect(driver.queue(1).sharedWith).toBeUndefined();
    expect(bench({ features: 1n << 32n }).driver.queue(0).sharedWith).toBeUndefined();
  });

  test('wherever the guest moves the BAR, around which all else is answered', () => {
    const { driver, domains } = bench();
    const NOTIFY = 0x6000;
    const at = (gpa: number) => [...driver.vm.served].map(([kick, of]) => [kick - gpa, of]);
    expect(at(driver.barGpa)).toEqual([[NOTIFY, domains.unfollowed]]);
    driver.config(0x10, 4, 0xc010_0000);
    driver.config(0x14, 4, 0);
    expect(at(0xc010_0000)).toEqual([[NOTIFY, domains.unfollowed]]);
    expect(driver.vm.claims).toHaveLength(2);
    expect(driver.read(DEVICE_CONFIG + 32, 4)).toBe(512);
    const msixTable = 0x8000;
    driver.write(msixTable, 4, 0x1234_0000);
    expect(driver.read(msixTable, 4)).toBe(0x1234_0000);
    driver.config(4, 2, 0);
    expect([driver.vm.served.size, driver.vm.claims, driver.vm.kicks.size]).toEqual([0, [], 0]);
  });
});
