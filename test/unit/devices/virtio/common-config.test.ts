import fc from 'fast-check';
import { expect, test } from 'vitest';
import { F_VERSION_1 } from '../../../../src/devices/virtio/device.ts';
import {
  ACKNOWLEDGE,
  DRIVER,
  DRIVER_OK,
  Driver,
  FAILED,
  FEATURES_OK,
  NEEDS_RESET,
  NOTIFY,
  REGISTERS,
  type RegisterName,
  RUNNING,
} from '../../support/driver.ts';
import { Echo, F_ECHO } from '../../support/echo.ts';

const NO_VECTOR = 0xffff;
const ALL = 0xffff_ffff;
const names = Object.keys(REGISTERS) as RegisterName[];
/** Of the selected queue. */
const QUEUE_NAMES = names.slice(names.indexOf('queueSize'));

function create() {
  const device = new Echo();
  return { device, driver: new Driver(device) };
}

/** All that the registers say, of both feature words and every queue, whatever is selected. */
function contents(driver: Driver): number[] {
  const selected = driver.get('queueSelect');
  const common = (['configVector', 'queueCount', 'status', 'generation'] as const).map((name) =>
    driver.get(name),
  );
  const features = [0, 1].map((word) => {
    driver.set('driverFeatureSelect', word);
    return driver.get('driverFeature');
  });
  const queues = [0, 1].flatMap((queue) => {
    driver.set('queueSelect', queue);
    return QUEUE_NAMES.map((name) => driver.get(name));
  });
  driver.set('queueSelect', selected);
  return [...common, ...features, ...queues];
}

test('after power-on the queues are as large as may be, disabled, and without vectors', () => {
  const { driver } = create();
  expect([driver.status, driver.get('queueCount'), driver.get('configVector')]).toEqual([
    ...[0, 2, NO_VECTOR],
  ]);
  driver.set('queueSelect', 1);
  const queue = ['queueSize', 'queueVector', 'queueEnable', 'queueNotifyOff'] as const;
  expect(queue.map((name) => driver.get(name))).toEqual([64, NO_VECTOR, 0, 1]);
});

test('features are offered in words of 32, VERSION_1 among them, and words beyond are 0', () => {
  const { driver, device } = create();
  expect(driver.offered).toBe(device.features | F_VERSION_1);
  driver.set('deviceFeatureSelect', 2);
  expect(driver.get('deviceFeature')).toBe(0);
  driver.set('deviceFeatureSelect', ALL);
  expect(driver.get('deviceFeature')).toBe(0);
});

test('FEATURES_OK stays only for a part of the offer that has VERSION_1', () => {
  fc.assert(
    fc.property(fc.bigInt({ min: 0n, max: 2n ** 64n - 1n }), fc.boolean(), (noise, within) => {
      const { driver, device } = create();
      const offered = device.features | F_VERSION_1;
      const features = within ? noise & offered : noise;

      driver.negotiate(features);

      const fits = (features & ~offered) === 0n && (features & F_VERSION_1) !== 0n;
      expect(driver.status).toBe(ACKNOWLEDGE | DRIVER | (fits ? FEATURES_OK : 0));
    }),
  );
});

test('a driver whose features were refused may offer others', () => {
  const { driver } = create();
  driver.negotiate(F_VERSION_1 | (1n << 63n));
  driver.accept(F_VERSION_1);

  driver.set('status', driver.status | FEATURES_OK);

  expect(driver.status & FEATURES_OK).toBe(FEATURES_OK);
});

test('features are frozen by FEATURES_OK', () => {
  const { driver, device } = create();
  driver.negotiate(F_VERSION_1);
  driver.accept(F_VERSION_1 | F_ECHO);
  driver.set('status', RUNNING);
  expect(device.activation?.features).toBe(0n);
});

test('DRIVER_OK without FEATURES_OK starts nothing', () => {
  const { driver, device } = create();
  driver.set('status', ACKNOWLEDGE | DRIVER | DRIVER_OK);
  expect([driver.status, device.calls]).toEqual([ACKNOWLEDGE | DRIVER, []]);
});

test('status bits come and never go, and those of the device are not the driver’s to set', () => {
  fc.assert(
    fc.property(fc.array(fc.integer({ min: 1, max: 255 }), { maxLength: 12 }), (writes) => {
      const { driver } = create();
      driver.accept(F_VERSION_1);
      for (const value of writes) {
        const before = driver.status;
        driver.set('status', value);
        const asked = value & (ACKNOWLEDGE | DRIVER | FEATURES_OK | DRIVER_OK | FAILED);
        expect(driver.status & before).toBe(before);
        expect(driver.status & ~(before | asked)).toBe(0);
      }
    }),
  );
});

test('the device is activated within the write of DRIVER_OK, once', () => {
  const { driver, device } = create();
  driver.start();
  expect(device.calls).toEqual(['activate']);
  driver.set('status', RUNNING);
  driver.set('status', DRIVER_OK);
  expect(device.calls).toEqual(['activate']);
});

test('after DRIVER_OK no access to any register changes anything before a reset', () => {
  const places = names.map((name) => REGISTERS[name][0]);
  const access = fc.record({
    offset: fc.oneof(fc.constantFrom(...places), fc.nat(64)),
    sizeBytes: fc.constantFrom(1, 2, 4),
    value: fc.oneof(fc.nat(0xffff), fc.nat(ALL), fc.constantFrom(0, 1, 2, 64, 256, NO_VECTOR)),
  });
  fc.assert(
    fc.property(fc.array(access, { minLength: 1, maxLength: 40 }), (accesses) => {
      const { driver, device } = create();
      driver.start();
      const before = contents(driver);
      for (const { offset, sizeBytes, value } of accesses) {
        const isReset = offset === 20 && value % 0x100 === 0;
        const isFailed = offset === 20 && (value & FAILED) !== 0;
        if (!isReset && !isFailed) driver.write(offset, sizeBytes, value % 2 ** (8 * sizeBytes));
      }
      expect(contents(driver)).toEqual(before);
      expect([device.calls, driver.built.length]).toEqual([['activate'], 2]);
    }),
  );
});

test.each([2, 0xffff])('queue %i, which does not exist, has size 0 and no vector', (queue) => {
  const { driver } = create();
  const before = contents(driver);
  driver.set('queueSelect', queue);
  expect(driver.get('queueSelect')).toBe(queue);

  for (const name of QUEUE_NAMES) driver.set(name, 1);

  const seen = QUEUE_NAMES.map((name) => driver.get(name));
  expect(seen).toEqual([0, NO_VECTOR, 0, 0, 0, 0, 0, 0, 0, 0]);
  expect(contents(driver)).toEqual(before);
});

test('a queue takes the sizes that are powers of two up to its largest, and ignores others', () => {
  const { driver } = create();
  driver.set('queueSelect', 1);
  for (const [size, then] of [
    [16, 16],
    [0, 16],
    [3, 16],
    [128, 16],
    [0x8000, 16],
    [1, 1],
    [64, 64],
  ]) {
    driver.set('queueSize', size ?? 0);
    expect(driver.get('queueSize')).toBe(then);
  }
});

test('a queue is enabled by 1 alone, and disabled by nothing but a reset', async () => {
  const { driver } = create();
  driver.set('status', ACKNOWLEDGE);
  const enable = (value: number) => {
    driver.set('queueEnable', value);
    return driver.get('queueEnable');
  };
  expect([2, 0xffff, 1, 0, 2].map(enable)).toEqual([0, 0, 1, 1, 1]);
  await driver.reset();
  expect(driver.get('queueEnable')).toBe(0);
});

test('a vector outside the table reads back as none', () => {
  const { driver } = create();
  for (const register of ['configVector', 'queueVector'] as const) {
    for (const [vector, then] of [
      [2, 2],
      [3, NO_VECTOR],
      [1, 1],
      [0x800, NO_VECTOR],
    ]) {
      driver.set(register, vector ?? 0);
      expect(driver.get(register)).toBe(then);
    }
  }
});

test('a 64-bit address is two halves, and no access takes both', () => {
  const { driver, device } = create();
  driver.negotiate();
  driver.set('queueUsedLow', 0x8000_0000);
  driver.set('queueUsedHigh', 0x12);
  driver.write(REGISTERS.queueUsedLow[0], 8, 1);
  driver.set('queueDescHigh', ALL);
  driver.set('queueDescLow', ALL);
  driver.set('queueEnable', 1);

  driver.set('status', RUNNING);

  expect(device.calls).toEqual(['activate']);
  const { usedGpa, descGpa } = driver.queue(0).options;
  expect([usedGpa, descGpa]).toEqual([0x12_8000_0000, 2 ** 52]); // an address that exists nowhere
});

test('registers answer at their place and width, and everything else reads all ones', () => {
  const exact = new Map<string, RegisterName>(names.map((name) => [`${REGISTERS[name]}`, name]));
  fc.assert(
    fc.property(fc.nat(0x1ffc), fc.integer({ min: 1, max: 9 }), fc.nat(ALL), (at, size, value) => {
      const { driver } = create();
      const name = exact.get(`${[at, size]}`);
      const before = name ? undefined : contents(driver);
      driver.write(at, size, value);
      if (name) return;
      expect(driver.read(at, size)).toBe(2 ** (8 * size) - 1);
      expect(contents(driver)).toEqual(before);
    }),
    { numRuns: 500 },
  );
});

test('the status keeps its value until the reset is over, and writes meanwhile are lost', async () => {
  const { driver, device } = create();
  driver.start();
  let finish = () => {};
  device.resetDone = new Promise((resolve) => {
    finish = resolve;
  });
  driver.set('status', 0);
  await new Promise((turn) => setImmediate(turn));
  expect(driver.status).toBe(RUNNING);

  driver.set('queueSelect', 1);
  driver.set('status', FAILED);
  driver.set('status', 0);
  expect([driver.status, driver.get('queueSelect')]).toEqual([RUNNING, 1]);

  finish();
  await driver.reset();
  expect(device.calls).toEqual(['activate', 'reset']);
});

test('a reset puts every register back, and the device can be started again', async () => {
  const { driver, device } = create();
  const fresh = contents(driver);
  driver.start({ features: F_VERSION_1 });

  await driver.reset();

  expect(contents(driver)).toEqual(fresh);
  driver.start();
  expect(device.calls).toEqual(['activate', 'reset', 'activate']);
  expect(device.activation?.features).toBe(device.features);
});

test('a reset of a device that no driver has touched is over at once', () => {
  const { driver, device } = create();
  driver.set('queueSelect', 1);
  driver.set('queueSize', 16);
  driver.set('status', 0);
  driver.set('status', ACKNOWLEDGE);
  driver.set('queueSelect', 1);
  expect([driver.status, driver.get('queueSize'), device.calls]).toEqual([ACKNOWLEDGE, 64, []]);
});

test('a device that cannot be reset needs another, and says why', async () => {
  const { driver, device } = create();
  driver.start();
  device.resetDone = Promise.reject(new Error('stuck'));

  driver.set('status', 0);
  await new Promise((turn) => setImmediate(turn));

  expect(driver.status).toBe(RUNNING | NEEDS_RESET);
  expect(driver.warnings).toEqual(['It cannot be reset: stuck']);
  device.resetDone = undefined;
  await driver.reset();
  expect(driver.status).toBe(0);
});

test('a kick before there is a driver is remembered by nobody', () => {
  const { driver, device } = create();
  driver.write(NOTIFY, 2, 0);
  expect([driver.status, device.calls]).toEqual([0, []]);
});
