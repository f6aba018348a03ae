/**
 * The devices that every VM has, put together: bus, clock, power, events, serial port. What they
 * are stands in their own files; here only who gets which address, line and callback.
 */
import { CPU_SCAN, CpuHotplug } from '../devices/acpi/cpu-hotplug.ts';
import { Ged } from '../devices/acpi/ged.ts';
import { MEMORY_SCAN, MemoryHotplug } from '../devices/acpi/memory-hotplug.ts';
import { Shutdown } from '../devices/acpi/shutdown.ts';
import type { AmlSource, LateBusDevice, PciPlace } from '../devices/device.ts';
import { Cmos } from '../devices/legacy/cmos.ts';
import { I8042 } from '../devices/legacy/i8042.ts';
import { Serial } from '../devices/legacy/serial.ts';
import { DEVICE_SLOTS, motherboard, PciBus } from '../devices/pci/bus.ts';
import { PCI_SCAN, PciHotplug } from '../devices/pci/hotplug.ts';
import type { Vm } from '../native.ts';
import type { Processor } from './acpi/processor.ts';
import { madtEntry } from './acpi/tables.ts';
import {
  type DeviceArea,
  type GpaRange,
  GSI,
  lineGsi,
  PORTS,
  ramRegions,
  segmentEcam,
} from './layout.ts';
import type { SegmentWindows } from './pci-segments.ts';

export interface PlatformOptions {
  vm: Vm;
  ramBytes: number;
  area: DeviceArea;
  /** Of each PCI segment. */
  segments: readonly SegmentWindows[];
  /** All that there can be. */
  processors: readonly Processor[];
  /** Whether there is a serial port. */
  serial: boolean;
  /** The guest asked for it. Called while it waits for the answer, so they only start the work. */
  onReset: () => void;
  onPowerOff: () => void;
  /** The guest lets go of a PCI slot. */
  onEject: (place: PciPlace) => void;
}

export interface Platform {
  /** By segment. */
  buses: readonly PciBus[];
  pciHotplug: PciHotplug;
  pressPowerButton: () => void;
  /** Whether another module of memory can be plugged. */
  readonly hasMemorySlot: boolean;
  /** Puts a module of memory there, and has the guest look. */
  plugMemory: (range: GpaRange) => void;
  cpuHotplug: CpuHotplug;
  /** Has the guest look which processors have come and which shall go. */
  notifyCpus: () => void;
  /** All that the guest's firmware tables tell of. */
  aml: AmlSource[];
}

/** Makes the devices and claims their addresses. */
export function buildPlatform(options: PlatformOptions): Platform {
  const { vm, ramBytes, area, segments, processors, onReset, onPowerOff, onEject } = options;
  const [below, above] = ramRegions(ramBytes);
  const { base } = PORTS.pci;
  const address = vm.pciAddress(base);
  const buses = segments.map((windows, segment) => {
    const ports = segment === 0 ? { base, address } : undefined;
    return new PciBus({ ...windows, segment, ports, ecam: segmentEcam(segment), lineGsi });
  });
  const shutdown = new Shutdown({ port: PORTS.shutdown.base, onReset, onPowerOff });
  const memory = new MemoryHotplug({ gpa: area.memoryHotplug.gpa });
  const scans = { cpus: CPU_SCAN, memory: MEMORY_SCAN, pci: PCI_SCAN };
  const ged = new Ged({ gpa: area.ged.gpa, gsi: GSI.ged, irq: vm.irq(GSI.ged), scans });
  const cpuHotplug = new CpuHotplug({
    gpa: area.cpuHotplug.gpa,
    madtEntries: processors.map(madtEntry),
    nodes: processors.map(({ node }) => node),
    presentCount: processors.filter(({ present }) => present).length,
    onEject: (vcpu) => vm.unplug(vcpu),
  });
  const pciHotplug = new PciHotplug({
    ...{ gpa: area.pciHotplug.gpa, slots: DEVICE_SLOTS, onEject },
    bridges: buses.map(({ path }) => path),
    notify: () => ged.notify('pci'),
  });
  const cmos = new Cmos({
    port: PORTS.cmos.base,
    ramBelow4GibBytes: below?.sizeBytes ?? 0,
    ramAbove4GibBytes: above?.sizeBytes ?? 0,
    nowMs: Date.now,
    onReset,
  });
  const i8042 = new I8042({ port: PORTS.i8042.base, onReset });
  const serial = new Serial({ port: PORTS.serial.base, gsi: GSI.serial });

  const hotplugs = [pciHotplug, memory, cpuHotplug];
  const fixed = [...buses.flatMap(({ data, ecam }) => [data, ecam]), shutdown, ged, cmos, i8042];
  for (const device of [...fixed, ...hotplugs]) claim(vm, device);
  vm.pmTimer(PORTS.pmTimer.base);
  for (const { base, count } of [PORTS.post, PORTS.firmwareDebug]) vm.sink(base, count);
  return {
    buses,
    pciHotplug,
    pressPowerButton: () => ged.notify('powerButton'),
    cpuHotplug,
    notifyCpus: () => ged.notify('cpus'),
    get hasMemorySlot() {
      return memory.hasRoom;
    },
    plugMemory: ({ gpa, sizeBytes }) => {
      memory.insert(gpa, sizeBytes);
      ged.notify('memory');
    },
    aml: [
      ...[...buses, motherboard(segments.map((_, i) => segmentEcam(i))), shutdown, ged, cmos],
      ...(options.serial ? [serial] : []),
      ...hotplugs,
    ],
  };
}

function claim(vm: Vm, device: LateBusDevice): void {
  for (const range of device.claims) vm.claim(range, device);
}
