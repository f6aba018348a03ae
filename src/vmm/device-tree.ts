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

/** A device; a PCI function is a node of its own, the parent of what it carries. */
interface DeviceNode {
  id: string;
  resources: PciBar[];
  parent?: string;
  children: string[];
  /** `0000:00:01.0` */
  pci_bdf?: string;
}

export type DeviceTree = Readonly<Record<string, DeviceNode>>;

const leaf = (id: string): DeviceNode => ({ id, resources: [], children: [] });

/** The devices that are on no bus. */
export function platformNodes({ serial }: { serial: boolean }): DeviceTree {
  const ids = ['__ioapic', ...(serial ? ['__serial'] : [])];
  return Object.fromEntries(ids.map((id) => [id, leaf(id)]));
}
