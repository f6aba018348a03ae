import { expect, test } from 'vitest';
import { Driver } from '../../support/driver.ts';
import { Echo } from '../../support/echo.ts';

function create() {
  const device = new Echo();
  return { device, driver: new Driver(device) };
}

test('that a driver starts the device and resets it is told, once each', async () => {
  const { driver } = create();
  await driver.reset(); // as drivers begin
  expect(driver.events).toEqual([]);

  driver.start();
  expect(driver.events).toEqual(['activated']);

  await driver.reset();
  await driver.reset();
  expect(driver.events).toEqual(['activated', 'reset']);

  driver.start();
  await driver.pci[Symbol.asyncDispose](); // with the VM
  expect(driver.events).toEqual(['activated', 'reset', 'activated']);
});

test('of a device that cannot start nothing is told', async () => {
  const { device, driver } = create();
  device.activate = () => {
    throw new Error('no');
  };

  driver.start();
  await driver.reset();

  expect(driver.events).toEqual([]);
});
