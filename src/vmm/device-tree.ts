/** The devices of a booted VM as vm.info lists them. */

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

/** A virtio device and the PCI function that carries it. */
export interface PlacedFunction {
  id: string;
  slot: number;
  /** Where the guest has put the BAR by now. */
  barGpa: number;
  barWidth: 32 | 64;
  barBytes: number;
  /** Addresses of its own, beside its BAR. */
  windows: readonly { gpa: number; sizeBytes: number }[];
}

export function functionNodes(functions: readonly PlacedFunction[]): DeviceTree {
  const nodes = functions.flatMap((placed): DeviceNode[] => {
    const { id, slot, barGpa, barWidth, barBytes, windows } = placed;
    const parent = `_virtio-pci-${id}`;
    const bar = { index: 0, base: barGpa, size: barBytes, prefetchable: false } as const;
    return [
      {
        id: parent,
        resources: [{ PciBar: { ...bar, type_: barWidth === 32 ? 'Mmio32' : 'Mmio64' } }],
        children: [id],
        pci_bdf: `0000:00:${slot.toString(16).padStart(2, '0')}.0`,
      },
      {
        ...leaf(id),
        resources: windows.map(({ gpa, sizeBytes }) => ({
          MmioAddressRange: { base: gpa, size: sizeBytes },
        })),
        parent,
      },
    ];
  });
  return Object.fromEntries(nodes.map((node) => [node.id, node]));
}
