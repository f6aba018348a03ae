import fc from 'fast-check';
import { expect, test } from 'vitest';
import { VfioConfigSpace } from '../../../../src/devices/vfio/config-space.ts';
import { VFIO } from '../../../../src/native-vfio.ts';
import { atOnce } from '../../support/fake-host.ts';
import { FakeVfioDevice } from '../../support/fake-vfio.ts';

const COMMAND = 4;
const [MEMORY, MASTER, NO_INTX] = [2, 4, 0x400];
const PM = 0x40;
const VPD = 0x48;
const VENDOR = 0x50;
const PCIE = 0x80;

/** Its registers, of which none takes its time. */
const by = (device: FakeVfioDevice) => ({
  read: (...access: Parameters<FakeVfioDevice['read']>) => device.read(...access),
  write: (...access: Parameters<FakeVfioDevice['write']>) => device.write(...access),
});

/** One with power management, VPD, something of the vendor's, PCI Express, and more behind. */
function create(change = (_: FakeVfioDevice) => {}) {
  const device = new FakeVfioDevice();
  device.put(PM, 0xffc3_4801, 0x0000_0100);
  device.put(VPD, 0x0000_5003, 0);
  device.put(VENDOR, 0x0008_8009, 0x1234_5678);
  device.put(PCIE, 0x0002_0010, 0x1000_8000, 0x0000_2810);
  device.put(0x100, 0x1201_0010, 1); // SR-IOV, first
  device.put(0x120, 0x1401_0003, 2);
  device.put(0x140, 0x1601_0015, 3); // resizable BARs
  device.put(0x160, 0x0001_0001, 4);
  change(device);
  const lines: boolean[] = [];
  const resets: number[] = [];
  const space = new VfioConfigSpace({
    ...{ device: { ...by(device), settled: () => undefined }, lineGsi: 21 },
    config: new Uint8Array(device.config.buffer),
    onLine: (isOn) => lines.push(isOn),
    onReset: () => resets.push(1),
  });
  device.writes.clear();
  const read = (at: number, sizeBytes: number) => atOnce(space.read(at, sizeBytes));
  return { space, read, device, lines, resets, written: () => device.written(VFIO.configRegion) };
}

/** Ids and offsets, as a guest walks them. */
function walk({ read }: ReturnType<typeof create>): [number, number][] {
  const found: [number, number][] = [];
  for (let at = read(0x34, 1); at !== 0; at = read(at + 1, 1)) found.push([read(at, 1), at]);
  for (let at = 0x100; at !== 0; at = read(at, 4) >>> 20) found.push([read(at, 2), at]);
  return found;
}

test('a guest sees who the device is, one function, no ROM, and pin A of its own line', () => {
  const { read } = create();
  const dwords = [0, 8, 0x0c, 0x2c, 0x30, 0x3c].map((at) => read(at, 4));
  expect(dwords).toEqual([0x0010_1b36, 0x0108_0202, 0, 0x1100_1af4, 0, 0x0000_0115]);
  expect(read(6, 2) & 0x10).toBe(0x10);
});

test('of capabilities it finds those that are its business', () => {
  expect(walk(create())).toEqual([
    [1, PM],
    [9, VENDOR],
    [0x10, PCIE],
    [0, 0x100],
    [3, 0x120],
    [1, 0x160],
  ]);
});

test('bus mastering is the guest’s to turn on and off; the device decodes always', () => {
  const { space, written, lines } = create();
  void space.write(COMMAND, 2, MEMORY);
  void space.write(COMMAND, 2, MEMORY | MASTER | NO_INTX);
  void space.write(COMMAND, 2, 0);

  expect(written()).toEqual([
    [COMMAND, 2, MEMORY | MASTER],
    [COMMAND, 2, MEMORY],
  ]);
  expect(lines).toEqual([true, false, true]);
});

test('the device stays powered, whatever state the guest puts it into', () => {
  const { space, read, written } = create();
  void space.write(PM + 4, 2, 0xffff);

  expect(read(PM + 4, 2)).toBe(0x000b);
  expect(read(PM + 2, 2)).toBe(0x07c3);
  expect(written()).toEqual([]);
});

test('a reset that the guest asks for is ours to make, and none of the device’s', () => {
  const { space, read, resets, written } = create();
  void space.write(PCIE + 8, 2, 0x2810);
  expect(resets).toEqual([]);

  void space.write(PCIE + 8, 2, 0x2810 | 0x8000);

  expect(resets).toEqual([1]);
  expect(read(PCIE + 8, 2)).toBe(0x2810);
  expect(written()).toEqual([]);
});

test('only what is the vendor’s is written as it comes', () => {
  const { space, written } = create();
  void space.write(VENDOR + 4, 4, 0xcafe_f00d);
  expect(written()).toEqual([[VENDOR + 4, 4, 0xcafe_f00d]]);
});

test('no write but those reaches the device', () => {
  fc.assert(
    fc.property(
      fc.array(fc.tuple(fc.nat(4095), fc.constantFrom(1, 2, 4), fc.nat(0xffff_ffff))),
      (accesses) => {
        const { space, read, written } = create();
        for (const [offset, sizeBytes, value] of accesses) {
          void space.write(offset, sizeBytes, value);
          read(offset, sizeBytes);
        }
        for (const [offset, sizeBytes] of written()) {
          const isVendors = offset >= VENDOR + 2 && offset + sizeBytes <= PCIE;
          expect(isVendors || (offset === COMMAND && sizeBytes === 2)).toBe(true);
        }
      },
    ),
  );
});

test('a chain without end is walked once', () => {
  const made = create((device) => {
    device.put(PCIE, 0x0002_4010); // back to the first
    device.put(0x160, 0x1201_0001); // back to the second
  });
  expect(walk(made)).toEqual(walk(create()));
});
