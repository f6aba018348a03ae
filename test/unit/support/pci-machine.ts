/** PCI buses and toys to put there. */
import { MIB } from '../../../src/bytes.ts';
import type { PciPlace } from '../../../src/devices/device.ts';
import { PciBus } from '../../../src/devices/pci/bus.ts';
import type { Native } from '../../../src/native.ts';
import { object } from '../../../src/schema.ts';
import { type Kinds, pciDevices, type WantedDevice } from '../../../src/vmm/devices.ts';
import type { VmIommu } from '../../../src/vmm/iommu.ts';
import { deviceArea, type GpaRange, MEMORY, segmentEcam } from '../../../src/vmm/layout.ts';
import { PciDevices } from '../../../src/vmm/pci-devices.ts';
import { Echo } from './echo.ts';
import { FakeCharHost } from './fake-char-host.ts';
import { atOnce, FakeEventFd, FakeVirtqueue, FakeVm, NO_MEMORY } from './fake-host.ts';
import { FakePassthroughHost } from './fake-vfio.ts';

export const AREA = deviceArea(40, 512 * MIB);
/** Of segment 1. */
export const SECOND_WINDOW = { gpa: 2 ** 39, sizeBytes: 2 ** 30 };

/** A machine with two kinds of toy: `plain` ones, and `disks`, whose BARs have 32 bits. */
export function machine(
  make: (id: string) => Echo = () => new Echo(),
  others: Kinds = {},
  window64 = AREA.pci64,
  iommu?: VmIommu,
) {
  const made: [id: string, device: Echo][] = [];
  const warnings: string[] = [];
  const create = (_: unknown, { id }: { id: string }) => {
    const device = make(id);
    made.push([id, device]);
    return device;
  };
  const kinds = { ...toys(create), ...others };
  const vm = new FakeVm();
  const removed: string[] = [];
  const told: string[] = [];
  const tell =
    (what: string) =>
    ({ segment, slot }: PciPlace) =>
      void told.push(`${what} ${segment > 0 ? `${segment}:` : ''}${slot}`);
  const buses = twoBuses(window64);
  const [bus] = buses as [PciBus];
  const native = { EventFd: FakeEventFd, Virtqueue: FakeVirtqueue } as Pick<
    Native,
    'EventFd' | 'Virtqueue'
  >;
  const attach = (config: object, memory = NO_MEMORY) =>
    PciDevices.attach(pciDevices(config, kinds), {
      hotplug: { plug: tell('plug'), unplug: tell('unplug'), forget: tell('forget') },
      ...{ buses, vm, native, memory, iommu, console: new FakeCharHost() },
      rateLimitGroups: new Map(),
      blocks: new Map(),
      passthrough: new FakePassthroughHost(),
      resetGuest: () => {},
      onWarning: (message) => warnings.push(message),
      onEvent: (told) => {
        if (told.event === 'device-removed')
          removed.push(`${told.properties.id} ${told.properties.bdf}`);
      },
    });
  /** Slots of the bus that have a function, with its device id. */
  const slots = () =>
    Array.from({ length: 32 }, (_, slot) => atOnce(bus.ecam.read(slot << 15, 4)) >>> 16);
  /** A device as vm.add-* wants it. */
  const wanted = (kind: string, config: object): WantedDevice => {
    const [device] = pciDevices({ [kind]: [config] }, kinds);
    if (!device) throw new Error(`No kind ${kind}`);
    return device;
  };
  return { attach, made, warnings, vm, bus, buses, slots, wanted, told, removed };
}

const twoBuses = (window64: GpaRange): PciBus[] =>
  [0, 1].map(
    (segment) =>
      new PciBus({
        ...{ segment, ecam: segmentEcam(segment) },
        window32: MEMORY.pci32,
        lineGsi: (slot) => 16 + (slot % 8),
        window64: segment === 0 ? window64 : SECOND_WINDOW,
      }),
  );

const SCHEMA = object({});

const toys = (create: (config: unknown, context: { id: string }) => Echo): Kinds => ({
  disks: {
    schema: SCHEMA,
    idPrefix: '_disk',
    barWidth: 32,
    create,
    found: () => ({ image_type: 'Raw' }),
  },
  plain: { schema: SCHEMA, idPrefix: '_plain', create },
  single: { schema: SCHEMA, id: '__single', create },
  unserved: { schema: SCHEMA, id: '__unserved' },
});
