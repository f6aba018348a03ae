/** The memory that a device shares with its driver: a BAR and a capability. VIRTIO 1.2 §4.1.4.7 */
import { expect, test } from 'vitest';
import { GIB, MIB } from '../../../../src/bytes.ts';
import type { FileWindow } from '../../../../src/native-vhost.ts';
import { Driver } from '../../support/driver.ts';
import { Echo } from '../../support/echo.ts';
import { FakeVm } from '../../support/fake-host.ts';

const COMMAND = 0x04;
const [BAR2_LOW, BAR2_HIGH] = [0x18, 0x1c];
const GPA = 0x40_0000_0000;

class Sharer extends Echo {
  readonly sharedMemory: FileWindow;

  constructor(sizeBytes: number) {
    super();
    this.sharedMemory = { sizeBytes } as FileWindow;
  }
}

function create(sizeBytes: number) {
  const device = new Sharer(sizeBytes);
  const vm = new FakeVm();
  const driver = new Driver(device, { vm, sharedMemoryGpa: GPA });
  const at = () => vm.windows.get(device.sharedMemory);
  return { driver, vm, at, space: driver.pci.space };
}

test('region 0 is all that the window is, at the start of a prefetchable BAR of 64 bits', () => {
  const { space } = create(8 * GIB + 2 * MIB);

  const words = (at: number, count: number) =>
    Array.from({ length: count }, (_, i) => space.read(at + 4 * i, 4));
  // After access, before MSI-X: id and next, length, type; BAR and region; offset and length.
  expect(words(0x98, 6)).toEqual([0x0818_b009, 2, 0, 2 * MIB, 0, 2]);
  expect(space.read(0xb0, 1)).toBe(0x11);
  expect(words(BAR2_LOW, 2)).toEqual([0xc, 0x40]);
  for (const [at, size] of [
    [BAR2_LOW, 0xc],
    [BAR2_HIGH, 0xffff_fffc],
  ] as const) {
    void space.write(at, 4, 0xffff_ffff);
    expect(space.read(at, 4)).toBe(size); // 16 GiB, the next power of two
  }
});

test('the guest finds it where it puts it, and nowhere while it does not answer', () => {
  const { driver, at } = create(2 * MIB);
  expect(at()).toBe(GPA);

  driver.config(BAR2_LOW, 4, 0x20_0000);
  expect(at()).toBe(GPA + 0x20_0000);
  driver.config(COMMAND, 2, 0);
  expect(at()).toBeUndefined();
  driver.config(COMMAND, 2, 2);
  expect(at()).toBe(GPA + 0x20_0000);
  driver.pci.unplug();
  expect(at()).toBeUndefined();
});

test('put where something else is, it answers nowhere', () => {
  const { driver, vm, at } = create(2 * MIB);
  vm.refuse = () => true;
  driver.config(BAR2_HIGH, 4, 0);
  expect(at()).toBeUndefined();

  vm.refuse = () => false;
  driver.config(BAR2_HIGH, 4, 0x40);
  expect(at()).toBe(GPA);
});

test('a device without shared memory has neither', () => {
  const { space } = new Driver(new Echo()).pci;
  expect([space.read(0x98, 1), space.read(BAR2_LOW, 4)]).toEqual([0x11, 0]);
});
