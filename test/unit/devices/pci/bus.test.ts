import { expect, test } from 'vitest';
import { MIB } from '../../../../src/bytes.ts';
import { PciBus } from '../../../../src/devices/pci/bus.ts';
import { ConfigSpace } from '../../../../src/devices/pci/config-space.ts';
import { atOnce } from '../../support/fake-host.ts';

const HOST_BRIDGE = 0x0d57_8086;
const DEVICE = 0x1042_1af4;
const ALL = 0xffff_ffff;

/** What the address register holds. */
let addressed = 0;

function create() {
  const bus = new PciBus({
    ports: { base: 0xcf8, address: () => addressed },
    ecam: { gpa: 0xe800_0000, sizeBytes: MIB },
    window32: { gpa: 0xc000_0000, sizeBytes: MIB },
    window64: { gpa: 2 ** 32, sizeBytes: MIB },
    lineGsi: (slot) => 16 + (slot % 8),
  });
  bus.add(5, new ConfigSpace({ vendorId: 0x1af4, deviceId: 0x1042, classCode: 0x018000 }));
  return bus;
}

const address = (slot: number, register: number, { bus = 0, fn = 0, enable = true } = {}): number =>
  ((enable ? 0x8000_0000 : 0) + (bus << 16) + (slot << 11) + (fn << 8) + register) >>> 0;

/** As a guest does it: the address to 0xcf8, then the data at 0xcfc plus the byte. */
function readPort({ data }: PciBus, at: number, sizeBytes = 4, byte = 0): number {
  addressed = at;
  return atOnce(data.read(byte, sizeBytes));
}

const readEcam = ({ ecam }: PciBus, slot: number, register: number, sizeBytes = 4): number =>
  atOnce(ecam.read((slot << 15) + register, sizeBytes));

test('the host bridge is at slot 0, by ports and by ECAM', () => {
  const bus = create();
  expect([readPort(bus, address(0, 0)), readEcam(bus, 0, 0)]).toEqual([HOST_BRIDGE, HOST_BRIDGE]);
  expect(readEcam(bus, 0, 8)).toBe(0x0600_0000);
});

test('both ways reach the same registers, in bytes, words and double words', () => {
  const bus = create();
  addressed = address(5, 4);
  void bus.data.write(1, 1, 0x04); // the high byte of the command register

  expect(readEcam(bus, 5, 4, 2)).toBe(0x0400);
  void bus.ecam.write((5 << 15) + 4, 2, 0x0002);
  expect(readPort(bus, address(5, 4), 2)).toBe(0x0002);
  expect(readPort(bus, address(5, 0), 2, 2)).toBe(0x1042);
});

test.each([
  ['an empty slot', address(6, 0)],
  ['another function', address(5, 0, { fn: 1 })],
  ['another bus', address(5, 0, { bus: 1 })],
  ['an address that is not enabled', address(5, 0, { enable: false })],
])('%s reads all ones and takes no write', (_what, at) => {
  const bus = create();
  expect(readPort(bus, at)).toBe(ALL);
  addressed = at + 4;
  void bus.data.write(0, 2, 0x0006);
  expect(readEcam(bus, 5, 4, 2)).toBe(0);
});

test('data beyond the register, or across its end, reads all ones', () => {
  const bus = create();
  expect(readPort(bus, address(5, 0), 4, 1)).toBe(ALL);
  expect(readPort(bus, address(5, 0), 2, 3)).toBe(0xffff);
  expect(bus.ecam.read(MIB, 4)).toBe(ALL);
});

test('a function that is removed is gone at once, and its slot is free again', () => {
  const bus = create();
  expect(readEcam(bus, 5, 0)).toBe(DEVICE);

  bus.remove(5);

  expect(readEcam(bus, 5, 0)).toBe(ALL);
  bus.add(5, new ConfigSpace({ vendorId: 1, deviceId: 2, classCode: 0 }));
  expect(readEcam(bus, 5, 0)).toBe(0x0002_0001);
});

test.each([5, 32, -1])('adding to slot %i, which is not free, is a bug', (slot) => {
  const space = new ConfigSpace({ vendorId: 1, deviceId: 2, classCode: 0 });
  expect(() => create().add(slot, space)).toThrow(/not free/);
});
