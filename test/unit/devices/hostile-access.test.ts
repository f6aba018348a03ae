import fc from 'fast-check';
import { expect, test } from 'vitest';
import { allOnes, MIB } from '../../../src/bytes.ts';
import { CpuHotplug } from '../../../src/devices/acpi/cpu-hotplug.ts';
import { Ged } from '../../../src/devices/acpi/ged.ts';
import { MemoryHotplug } from '../../../src/devices/acpi/memory-hotplug.ts';
import { Shutdown } from '../../../src/devices/acpi/shutdown.ts';
import type { LateBusDevice } from '../../../src/devices/device.ts';
import { Cmos } from '../../../src/devices/legacy/cmos.ts';
import { I8042 } from '../../../src/devices/legacy/i8042.ts';
import { PciBus } from '../../../src/devices/pci/bus.ts';
import { ConfigSpace } from '../../../src/devices/pci/config-space.ts';
import { atOnce } from '../support/fake-host.ts';

const noop = (): void => {};

/** A bus with a function that has everything a function can have. */
function bus(): PciBus {
  const space = new ConfigSpace({ vendorId: 0x1af4, deviceId: 0x1042, classCode: 0x018000 });
  space.addBar({ index: 0, width: 64, sizeBytes: 0x8_0000, gpa: 4096 * MIB, onMove: noop });
  space.addBar({ index: 2, width: 32, sizeBytes: 0x10, gpa: 3072 * MIB, onMove: noop });
  const body = new Uint8Array(10);
  space.addCapability({ id: 0x11, body, writable: new Uint8Array(10).fill(0xff) });
  const pci = new PciBus({
    ports: { base: 0xcf8, address: () => 0x8000_f810 },
    ecam: { gpa: 0xe800_0000, sizeBytes: MIB },
    window32: { gpa: 0xc000_0000, sizeBytes: MIB },
    window64: { gpa: 2 ** 32, sizeBytes: MIB },
    lineGsi: (slot) => 16 + (slot % 8),
  });
  pci.add(31, space);
  return pci;
}

/** One whose guest has been asked for processors. */
function cpuHotplug(): CpuHotplug {
  const madtEntries = Array.from({ length: 4 }, () => new Uint8Array(16));
  const device = new CpuHotplug({ gpa: 2 ** 39, madtEntries, presentCount: 3, onEject: noop });
  device.removeDownTo(1);
  return device;
}

const devices: [string, () => LateBusDevice][] = [
  ['shutdown', () => new Shutdown({ port: 0x600, onReset: noop, onPowerOff: noop })],
  ['ged', () => new Ged({ gpa: 2 ** 39, gsi: 13, irq: { set: noop }, scans: {} })],
  [
    'memory hotplug',
    () => {
      const memory = new MemoryHotplug({ gpa: 2 ** 39 });
      memory.insert(2 ** 32, 2 ** 30);
      return memory;
    },
  ],
  ['cpu hotplug', () => cpuHotplug()],
  ['i8042', () => new I8042({ port: 0x61, onReset: noop })],
  [
    'cmos',
    () =>
      new Cmos({
        port: 0x70,
        ramBelow4GibBytes: 512 * MIB,
        ramAbove4GibBytes: 0,
        nowMs: Date.now,
        onReset: noop,
      }),
  ],
  ['pci data', () => bus().data],
  ['pci ecam', () => bus().ecam],
];

const access = fc.record({
  write: fc.boolean(),
  offset: fc.oneof(
    fc.integer({ min: -8, max: 16 }),
    fc.integer({ min: 0, max: MIB + 16 }),
    fc.integer({ min: 0, max: 0x14 }).map((dword) => (31 << 15) + 4 * dword), // slot 31 in ECAM
    fc.integer({ min: 31 << 15, max: (31 << 15) + 0x120 }),
  ),
  sizeBytes: fc.oneof(fc.constantFrom(1, 2, 4), fc.integer({ min: 0, max: 9 })),
  value: fc.oneof(fc.nat(0xff), fc.nat(0xffff_ffff), fc.constant(0x8000_f800)),
});

test.each(devices)('%s: no access of any place and width throws or reads too wide', (_, create) => {
  fc.assert(
    fc.property(fc.array(access, { minLength: 1, maxLength: 30 }), (accesses) => {
      const device = create();
      for (const { write, offset, sizeBytes, value } of accesses) {
        if (write) {
          device.write(offset, sizeBytes, value);
          continue;
        }
        const read = atOnce(device.read(offset, sizeBytes));
        expect(Number.isInteger(read) && read >= 0 && read <= allOnes(sizeBytes)).toBe(true);
      }
    }),
  );
});
