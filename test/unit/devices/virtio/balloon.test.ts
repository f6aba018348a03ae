import fc from 'fast-check';
import { beforeEach, expect, test } from 'vitest';
import { Balloon } from '../../../../src/devices/virtio/balloon.ts';
import { DEVICE_CONFIG, Driver, NOTHING } from '../../support/driver.ts';

const MIB = 1 << 20;
const PAGE = 4096;
const [NUM_PAGES, ACTUAL] = [DEVICE_CONFIG, DEVICE_CONFIG + 4];
const [INFLATE, DEFLATE, REPORTING] = [0, 1, 2];

let warnings: string[];
let discarded: number[][];
let discard: (ranges: Float64Array) => Promise<void>;

beforeEach(() => {
  warnings = [];
  discarded = [];
  discard = async (ranges) => void discarded.push([...ranges]);
});

const make = (config: object = {}): Balloon =>
  new Balloon({ size: 0, deflate_on_oom: false, free_page_reporting: false, ...config } as never, {
    id: '__balloon',
    discard: (ranges) => discard(ranges),
    onWarning: (text) => warnings.push(text),
  });

function start(config?: object): { driver: Driver; balloon: Balloon } {
  const balloon = make(config);
  const driver = new Driver(balloon);
  driver.start();
  return { driver, balloon };
}

const pages = (...numbers: number[]): Uint8Array =>
  new Uint8Array(Uint32Array.from(numbers).buffer);

test.each([
  [{}, 0n, 2],
  [{ deflate_on_oom: true }, 1n << 2n, 2],
  [{ free_page_reporting: true }, 1n << 5n, 3],
])('%j is offered as the bit and the queue that it takes', (config, bit, queues) => {
  const balloon = make(config);

  expect(balloon.features & 0xff_ffffn).toBe(bit);
  expect(balloon.queueSizes).toHaveLength(queues);
});

test('the guest is told what is wanted, at first and later', () => {
  const { driver, balloon } = start({ size: 64 * MIB });
  expect(driver.read(NUM_PAGES, 4)).toBe((64 * MIB) / PAGE);

  balloon.resize(MIB + PAGE - 1);

  expect(driver.read(NUM_PAGES, 4)).toBe(MIB / PAGE);
  expect(driver.interrupts(0)).toBe(1);
});

test('what the guest says that it lends counts, and its wish does not', async () => {
  const { driver, balloon } = start({ size: 64 * MIB });

  driver.write(ACTUAL, 4, 0x1_0000);
  driver.write(NUM_PAGES, 4, 7);
  expect(balloon.heldBytes).toBe(256 * MIB);
  driver.write(ACTUAL, 1, 2);
  expect(balloon.heldBytes).toBe(256 * MIB + 2 * PAGE);
  expect(driver.read(NUM_PAGES, 4)).toBe((64 * MIB) / PAGE);

  await driver.reset();
  expect(balloon.heldBytes).toBe(0);
});

test('pages are given back as few ranges, whatever their order', async () => {
  const { driver } = start();

  await driver.request(INFLATE, pages(7, 3, 4, 5, 4, 0xffff_ffff, 9, 8), 0);

  expect(discarded).toEqual([[3 * PAGE, 3 * PAGE, 7 * PAGE, 3 * PAGE, 0xffff_ffff * PAGE, PAGE]]);
});

test('any pages are given back, and no others', async () => {
  const { driver } = start();
  await fc.assert(
    fc.asyncProperty(fc.array(fc.nat(40), { maxLength: 60 }), async (wanted) => {
      discarded = [];
      await driver.request(INFLATE, pages(...wanted), 0);

      const [ranges = []] = discarded;
      const given: number[] = [];
      for (let i = 0; i < ranges.length; i += 2)
        for (let at = 0; at < (ranges[i + 1] ?? 0); at += PAGE)
          given.push(((ranges[i] ?? 0) + at) / PAGE);
      expect(given).toEqual([...new Set(wanted)].sort((a, b) => a - b));
    }),
  );
});

test('a request of more pages than there is room for is cut short', async () => {
  const { driver } = start();
  const numbers = Array.from({ length: 10_000 }, (_, i) => i);

  await driver.request(INFLATE, pages(...numbers), 0);
  await driver.request(INFLATE, Uint8Array.of(1, 2, 3), 0);

  expect(discarded).toEqual([[0, 4096 * PAGE], []]);
});

test('a page comes back to the guest after the host has it, and not before', async () => {
  const { driver } = start();
  let done = (): void => {};
  discard = () =>
    new Promise((resolve) => {
      done = resolve;
    });
  const first = driver.offer(INFLATE, pages(1), 0);
  const second = driver.offer(INFLATE, pages(2), 0);
  driver.kick(INFLATE);
  await new Promise(setImmediate);
  expect([first.completeCount, second.completeCount]).toEqual([0, 0]);

  done();
  await first.done;
  expect(second.completeCount).toBe(0);
  done();

  await second.done;
});

test('a reset waits for what is under way', async () => {
  const { driver } = start();
  let done = (): void => {};
  discard = () =>
    new Promise((resolve) => {
      done = resolve;
    });
  driver.offer(INFLATE, pages(1), 0);
  driver.kick(INFLATE);
  await new Promise(setImmediate);
  driver.set('status', 0);
  await new Promise(setImmediate);
  expect(driver.status).not.toBe(0);

  done();

  await driver.reset();
});

test('pages that are taken back are acknowledged', async () => {
  const { driver } = start();

  await driver.request(DEFLATE, pages(1, 2, 3), 0);

  expect(discarded).toEqual([]);
});

test('reported pages are those of the buffers', async () => {
  const { driver } = start({ free_page_reporting: true });

  await driver.request(REPORTING, NOTHING, 3 * PAGE);

  expect(discarded).toEqual([[0, 3 * PAGE]]);
});

test('a host that takes nothing back is a warning, and the guest goes on', async () => {
  const { driver } = start();
  discard = () => Promise.reject(new Error('EINVAL'));

  await driver.request(INFLATE, pages(1), 0);
  await driver.request(INFLATE, pages(2), 0);

  expect(warnings).toHaveLength(2);
  expect(warnings[0]).toContain('__balloon');
});
