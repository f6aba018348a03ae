import { expect, test } from 'vitest';
import { F_ACCESS_PLATFORM, F_VERSION_1 } from '../../../../src/devices/virtio/device.ts';
import { ACKNOWLEDGE, DRIVER, Driver, FEATURES_OK, RUNNING } from '../../support/driver.ts';
import { Echo } from '../../support/echo.ts';
import { FakeEndpoint } from '../../support/fake-iommu.ts';

const { space: dma } = new FakeEndpoint();
const SHOWN = ACKNOWLEDGE | DRIVER;

test('a driver of a device behind an IOMMU cannot do without it', async () => {
  const driver = new Driver(new Echo(), { dma });
  expect(driver.offered & F_ACCESS_PLATFORM).toBe(F_ACCESS_PLATFORM);
  driver.negotiate(driver.offered & ~F_ACCESS_PLATFORM);
  expect(driver.status).toBe(SHOWN);
  await driver.reset();
  driver.negotiate(F_VERSION_1 | F_ACCESS_PLATFORM);
  expect(driver.status).toBe(SHOWN | FEATURES_OK);
});

test('others are not offered it', () => {
  const driver = new Driver(new Echo());
  expect(driver.offered & F_ACCESS_PLATFORM).toBe(0n);
  driver.negotiate(F_VERSION_1 | F_ACCESS_PLATFORM);
  expect(driver.status).toBe(SHOWN);
});

test('its rings are at addresses of 64 bits', () => {
  const device = new Echo();
  const driver = new Driver(device, { dma });
  driver.negotiate();
  driver.setUpQueue(0);
  for (const part of ['Desc', 'Avail', 'Used'] as const)
    driver.set(`queue${part}High`, 0xffff_ffff);
  driver.set('status', RUNNING);
  expect(driver.queue(0).options).toMatchObject({
    ...{ dma, descGpa: 0xffff_ffff_0001_0000n, availGpa: 0xffff_ffff_0001_1000n },
    usedGpa: 0xffff_ffff_0001_2000n,
  });
  expect((device.activation?.features ?? 0n) & F_ACCESS_PLATFORM).toBe(0n);
});

test('all its queues are kicked for the IOMMU', () => {
  const driver = new Driver(new Echo(), { dma });
  driver.start();
  const counts = () => [0, 1].map((queue) => driver.kickOf(queue).signalCount);
  const before = counts();
  driver.pci.kickAll();
  expect(counts()).toEqual(before.map((count) => count + 1));
});
