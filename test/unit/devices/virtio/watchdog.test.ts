import { afterEach, beforeEach, expect, test, vi } from 'vitest';
import { Watchdog } from '../../../../src/devices/virtio/watchdog.ts';
import { Driver, NOTHING } from '../../support/driver.ts';

let resets: number;
let warnings: string[];

beforeEach(() => {
  vi.useFakeTimers({ toFake: ['setInterval', 'clearInterval'] });
  resets = 0;
  warnings = [];
});

afterEach(() => {
  vi.useRealTimers();
});

function start(): Driver {
  const onWarning = (text: string) => void warnings.push(text);
  const driver = new Driver(new Watchdog({ resetGuest: () => resets++, onWarning }));
  driver.start();
  return driver;
}

const stroke = (driver: Driver) => driver.request(0, NOTHING, 1);
const pass = (seconds: number) => vi.advanceTimersByTime(seconds * 1000);

test('a stroke is answered by a byte of 1', async () => {
  expect(await stroke(start())).toEqual(Uint8Array.of(1));
});

test('a guest that strokes in time is left alone, one that stops is reset after 20 s, once', async () => {
  const driver = start();

  for (let i = 0; i < 10; i++) {
    await stroke(driver);
    pass(19.9);
  }
  expect(resets).toBe(0);
  pass(0.2);
  expect(resets).toBe(1);
  expect(warnings).toEqual(['The guest has not stroked its watchdog for 20 s, and is reset']);
  pass(100);
  expect(resets).toBe(1);
});

test('nobody waits for the first stroke, and a request without room is none', async () => {
  const driver = start();

  pass(100);
  expect(await driver.request(0, Uint8Array.of(1), 0)).toEqual(NOTHING);
  pass(100);

  expect(resets).toBe(0);
});

test('time in a pause does not count, and after it the guest has all of its time', async () => {
  const driver = start();
  await stroke(driver);
  pass(19);

  await driver.pci.pause();
  pass(1000);
  driver.pci.resume();
  pass(19.9);
  expect(resets).toBe(0);
  pass(0.2);

  expect(resets).toBe(1);
});

test('a pause before the first stroke starts nothing', async () => {
  const driver = start();

  await driver.pci.pause();
  driver.pci.resume();
  pass(100);

  expect(resets).toBe(0);
});

test('a driver that resets the device ends the watch, and the next one starts another', async () => {
  const driver = start();
  await stroke(driver);

  await driver.reset();
  pass(100);
  expect(resets).toBe(0);
  driver.start();
  await stroke(driver);
  pass(20.1);

  expect(resets).toBe(1);
});

test('nothing ticks any more when it is gone', async () => {
  const driver = start();
  await stroke(driver);

  await driver.pci[Symbol.asyncDispose]();

  expect(vi.getTimerCount()).toBe(0);
});
