/** What holds for every virtio device, whatever it is and whatever its driver does. */
import fc from 'fast-check';
import { describe, expect, test, vi } from 'vitest';
import { allOnes } from '../../src/bytes.ts';
import {
  DEVICE_CONFIG,
  FEATURES_OK,
  ISR,
  MSIX_PENDING,
  MSIX_TABLE,
  NEEDS_RESET,
  NOTIFY,
  REGISTERS,
  type RegisterName,
  RUNNING,
} from '../unit/support/driver.ts';
import { Echo } from '../unit/support/echo.ts';
import { BREAKAGES } from './support/breakages.ts';
import { newRam, RAM_BYTES, Rig, turn } from './support/rig.ts';
import { SUBJECTS } from './support/subjects.ts';

const turns = async (count: number): Promise<void> => {
  for (let i = 0; i < count; i++) await turn();
};

describe.each(SUBJECTS)('$name', ({ create, request }) => {
  const started = () => {
    const rig = new Rig(create());
    rig.start();
    return rig;
  };
  const queueCount = create().queueSizes.length;

  test('is as new after each of 20 resets, and serves the next driver', async () => {
    await using rig = started();
    const fresh = new Rig(create());
    const state = ({ driver }: Rig) => registersOf(driver, queueCount);

    for (let i = 0; i < 20; i++) {
      expect(await rig.answers(request)).toBe(true);
      await rig.driver.reset();
      expect(state(rig)).toEqual(state(fresh));
      rig.start();
    }

    await fresh[Symbol.asyncDispose]();
  });

  test('touches nothing of requests that a reset took from it', async () => {
    await using rig = started();
    rig.send(request, 50);
    await turn();

    await rig.driver.reset();
    const before = rig.snapshot();
    await turns(50);

    expect(rig.snapshot().equals(before)).toBe(true);
  });

  test('starts once, however often it is told to', async () => {
    const device = create();
    const activate = vi.spyOn(device, 'activate');
    await using rig = new Rig(device);
    rig.start();

    for (const status of [RUNNING, RUNNING | 0x80, 4]) rig.driver.set('status', status);

    expect(activate).toHaveBeenCalledTimes(1);
    expect(await rig.answers(request)).toBe(true);
  });

  test('answers reads of every place and width, and serves on', async () => {
    await using rig = started();
    const { driver } = rig;
    const part = fc.constantFrom(0, ISR, DEVICE_CONFIG, NOTIFY, MSIX_TABLE, MSIX_PENDING);
    const access = fc.tuple(part, fc.nat(0x60), fc.constantFrom(1, 2, 3, 4, 8));

    fc.assert(
      fc.property(access, ([base, offset, sizeBytes]) => {
        const value = driver.read(base + offset, sizeBytes);
        expect(Number.isInteger(value) && value >= 0 && value <= allOnes(sizeBytes)).toBe(true);
      }),
    );

    expect(driver.status).toBe(RUNNING);
    expect(await rig.answers(request)).toBe(true);
  });

  test('has the same configuration in whatever parts it is read', async () => {
    const device = create();
    await using rig = new Rig(device);
    const whole = Array.from(device.config);

    for (const sizeBytes of [1, 2, 4])
      for (let at = 0; at < whole.length; at += sizeBytes) {
        const bytes = whole.slice(at, at + sizeBytes);
        const expected =
          bytes.length < sizeBytes
            ? allOnes(sizeBytes)
            : bytes.reduce((sum, byte, i) => sum + byte * 2 ** (8 * i), 0);
        expect(rig.driver.read(DEVICE_CONFIG + at, sizeBytes)).toBe(expected);
      }
    expect(rig.driver.read(DEVICE_CONFIG + whole.length, 1)).toBe(0xff);
  });

  test('refuses each feature that it did not offer', async () => {
    const device = create();
    const activate = vi.spyOn(device, 'activate');
    await using rig = new Rig(device);
    const { driver } = rig;
    const { offered } = driver;

    for (let bit = 0n; bit < 64n; bit++) {
      if ((offered & (1n << bit)) !== 0n) continue;
      driver.negotiate(offered | (1n << bit));
      driver.set('status', RUNNING);
      expect(driver.status & (FEATURES_OK | 4), `bit ${bit}`).toBe(0);
      await driver.reset();
    }

    expect(activate).not.toHaveBeenCalled();
  });

  test('keeps queues and features as they are, whatever is written while it runs', async () => {
    await using rig = started();
    const { driver } = rig;
    const before = registersOf(driver, queueCount);
    const offset = fc.nat(0x5f).filter((at) => at !== REGISTERS.status[0]);
    const write = fc.tuple(offset, fc.constantFrom(1, 2, 4), fc.nat(0xffff_ffff));

    fc.assert(fc.property(write, ([at, sizeBytes, value]) => driver.write(at, sizeBytes, value)));

    expect(registersOf(driver, queueCount)).toEqual(before);
    expect(await rig.answers(request)).toBe(true);
  });

  test.each([
    ['beyond RAM', RAM_BYTES],
    ['beyond RAM in part', RAM_BYTES - 0x1000],
    ['at the end of the address space', 2 ** 52 - 0x3000],
  ])('asks for a reset if a queue lies %s, and works after it', async (_, gpa) => {
    await using rig = new Rig(create());
    rig.start({ at: (queue) => gpa + 0x10_0000 * (queue === request.queue ? 0 : queue + 1) });
    rig.driver.kick(request.queue);
    await expect.poll(() => rig.driver.status & NEEDS_RESET).not.toBe(0);

    await rig.driver.reset();
    rig.start();

    expect(await rig.answers(request)).toBe(true);
  });

  test('uses a queue where the next driver has put it', async () => {
    await using rig = started();
    expect(await rig.answers(request)).toBe(true);
    await rig.driver.reset();

    rig.start({ at: (queue) => 0x80_0000 + 0x10_0000 * queue });

    expect(await rig.answers(request)).toBe(true);
  });

  test('pauses in the middle of its work, and does the rest afterwards, each once', async () => {
    await using rig = started();
    const count = Math.min(100, rig.ring(request.queue).size / 2); // two entries each
    rig.send(request, count);
    await turn();

    await rig.driver.pci.pause();
    const before = rig.snapshot();
    await turns(50);
    expect(rig.snapshot().equals(before)).toBe(true);
    rig.driver.pci.resume();

    expect(await rig.served(request.queue, count)).toBe(count);
    await turns(10);
    expect(rig.ring(request.queue).used()).toEqual([]);
  });

  describe.each(BREAKAGES)('whose driver has a queue with $name', ({ write }) => {
    test('alone asks for a reset, and works after it', async () => {
      const [memory, device] = [newRam(), create()];
      const rig = new Rig(device, { memory });
      await using other = new Rig(new Echo(), { memory, vm: rig.driver.vm, index: 1 });
      rig.start();
      other.start();

      write(rig.ring(request.queue), memory);
      rig.driver.kick(request.queue);
      await expect.poll(() => rig.driver.status & NEEDS_RESET).not.toBe(0);

      expect(other.driver.status).toBe(RUNNING);
      expect(await other.answers({ queue: 0, readableBytes: 8, writableBytes: 8 })).toBe(true);
      await rig.driver.reset();
      rig.start();
      expect(await rig.answers(request)).toBe(true);
      await rig[Symbol.asyncDispose]();
    });
  });

  test('goes away in the middle of its work', async () => {
    const rig = started();
    rig.send(request, 100);

    await rig[Symbol.asyncDispose]();
    const before = rig.snapshot();
    await turns(50);

    expect(rig.snapshot().equals(before)).toBe(true);
  });
});

/** All that a driver sets up; selectors are left at 0. */
function registersOf(driver: Rig['driver'], queueCount: number): number[] {
  const names = Object.keys(REGISTERS) as RegisterName[];
  const perQueue = names.filter((name) => name.startsWith('queue') && name !== 'queueSelect');
  const values = [driver.status, driver.get('configVector'), driver.get('queueCount')];
  for (const select of [0, 1]) {
    driver.set('driverFeatureSelect', select);
    values.push(driver.get('driverFeature'));
  }
  for (let queue = queueCount - 1; queue >= 0; queue--) {
    driver.set('queueSelect', queue);
    values.push(...perQueue.map((name) => driver.get(name)));
  }
  driver.set('driverFeatureSelect', 0);
  driver.set('deviceFeatureSelect', 0);
  return values;
}
