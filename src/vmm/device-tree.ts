/** The devices of a booted VM as vm.info lists them. */
import type { FunctionBar, PciPlace } from '../devices/device.ts';

/** Where a device answers, in the API's own terms. */
interface PciBar {
  PciBar: {
    index: number;
    base: number;
    size: number;
    type_: 'Io' | 'Mmio32' | 'Mmio64';
    prefetchable: boolean;
  };
}

interface MmioAddressRange {
  MmioAddressRange: { base: number; size: number };
}

/** A device; a PCI function is a node of its own, the parent of what it carries. */
interface DeviceNode {
  id: string;
  resources: (PciBar | MmioAddressRange)[];
  parent?: string;
  children: string[];
  /** `0000:00:01.0` */
  pci_bdf?: string;
}

export type DeviceTree = Readonly<Record<string, DeviceNode>>;

const leaf = (id: string): DeviceNode => ({ id, resources: [], children: [] });

/** The devices that are on no bus. */
export function platformNodes(there: { serial: boolean; debugConsole: boolean }): DeviceTree {
  const { serial, debugConsole } = there;
  const ids = [
    '__ioapic',
    ...(serial ? ['__serial'] : []),
    ...(debugConsole ? ['__debug_console'] : []),
  ];
  return Object.fromEntries(ids.map((id) => [id, leaf(id)]));
}

/** A device on the PCI bus. */
export interface PlacedFunction {
  id: string;
  place: PciPlace;
  bars: readonly FunctionBar[];
  /** Addresses of its own, beside its BARs. */
  windows: readonly { gpa: number; sizeBytes: number }[];
  /** Its function is a node of its own. */
  isVirtio: boolean;
}

const hexOf = (value: number, digits: number): string => value.toString(16).padStart(digits, '0');

export const bdfOf = ({ segment, slot }: PciPlace): string =>
  `${hexOf(segment, 4)}:00:${hexOf(slot, 2)}.0`;

export function functionNodes(functions: readonly PlacedFunction[]): DeviceTree {
  const nodes = functions.flatMap(({ id, place, bars, windows, isVirtio }): DeviceNode[] => {
    const [pci_bdf, parent] = [bdfOf(place), `_virtio-pci-${id}`];
    const resources = bars.map(barResource);
    const own = windows.map(({ gpa, sizeBytes }) => ({
      MmioAddressRange: { base: gpa, size: sizeBytes },
    }));
    if (!isVirtio) return [{ ...leaf(id), resources: [...resources, ...own], pci_bdf }];
    return [
      { id: parent, resources, children: [id], pci_bdf },
      { ...leaf(id), resources: own, parent },
    ];
  });
  return Object.fromEntries(nodes.map((node) => [node.id, node]));
}

const barResource = ({ index, width, sizeBytes, gpa }: FunctionBar): PciBar => ({
  PciBar: {
    ...{ index, base: gpa, size: sizeBytes },
    type_: width === 32 ? 'Mmio32' : 'Mmio64',
    prefetchable: false,
  },
});
