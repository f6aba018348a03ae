/** What of the native core (native.ts) is about PCI devices of the host's own, by Linux's VFIO. */
import type { EventFd } from './native-events.ts';
import type { IoDomain, IovaMapping } from './native-iommu.ts';
import type { GuestMemory } from './native-memory.ts';

/** A part of a region that can be mapped, in whole pages. */
export interface VfioArea {
  offset: number;
  sizeBytes: number;
}

/** Registers of a device; of 0 bytes if there is none. */
export interface VfioRegion {
  sizeBytes: number;
  areas: VfioArea[];
}

/** Memory that the guest plugs by the block, one byte of `plugged` each. */
export interface DmaBlocks {
  gpa: number;
  blockBytes: number;
  plugged: Uint8Array;
}

/** What an IOMMU of the host can map. */
export interface IommuLimits {
  /** In order; I/O virtual addresses, both ends included. */
  ranges: { first: bigint; last: bigint }[];
  /** A bit each; 0 if the host does not say. */
  pageSizes: bigint;
}

/**
 * Devices that reach the same of one guest's memory: all of it, at first. What returns a Promise
 * works on a worker, for it pins, or lets go of, any number of pages.
 */
export interface VfioContainer {
  /**
   * The guest's memory is the regions of `memory` from now on, but of the blocks those alone that
   * are plugged.
   * Rejects: ENOMEM beyond the limit of locked memory, or what VFIO_IOMMU_MAP_DMA says; then a
   * later call goes on from there.
   */
  follow(memory: GuestMemory, blocks: readonly DmaBlocks[]): Promise<void>;
  /**
   * From now on its devices reach what is mapped in a domain now, all memory, or nothing. Rejects
   * as `follow`, or as `map`, and nothing is reached then.
   */
  reach(to: IoDomain | 'ram' | 'nothing'): Promise<void>;
  /**
   * While they go by a domain: they reach one more mapping of it, or nothing of that.
   * Throws or rejects: EFAULT if part of it is no memory that allows it, EINVAL where the host's
   * IOMMU maps nothing, ENOMEM and ENOSPC beyond a limit of the host's.
   */
  map(mapping: IovaMapping): Promise<void> | undefined;
  /** They reach nothing of the range. */
  unmap(first: bigint, last: bigint): Promise<void> | undefined;
  /** Files in guest memory that the host does not let devices reach, at the last `follow`. */
  leftOutBytes(): number;
  /** Once a device is open. @throws SystemError */
  limits(): IommuLimits;
  /** Once its devices are closed. Idempotent. */
  close(): void;
}

/** By `VFIO_PCI_*_REGION_INDEX` and `VFIO_PCI_*_IRQ_INDEX` of linux/vfio.h. */
export const VFIO = { configRegion: 7, intx: 0, msi: 1, msix: 2 } as const;

/** A device. What is not a Promise does not wait. */
export interface VfioDevice {
  /**
   * `group` is the path of its group's file. Linux resets the device, if it can, on a worker.
   * Rejects: EBUSY if another program or another VM has it, EPERM if another device of its group is
   * the host's still, ENODEV if it is no such device.
   */
  open(container: VfioContainer, group: string, name: string): Promise<void>;
  /** BARs, ROM, configuration space. */
  regions(): VfioRegion[];
  irqCounts(): number[];
  /** 1, 2 or 4 bytes. @throws SystemError if it is gone. */
  read(region: number, offset: number, sizeBytes: number): number;
  write(region: number, offset: number, sizeBytes: number, value: number): void;
  /** What interrupts signal from now on; none of them without any. @throws SystemError ENOSPC */
  setIrqs(index: number, events: readonly EventFd[]): void;
  /** What signals that its interrupt line may be raised again. */
  setUnmask(event: EventFd): void;
  /** The host wants it back, and waits until it is closed. */
  onRequest(handler: () => void): void;
  /** Rejects: ENOTTY if the device has no reset. */
  reset(): Promise<void>;
  /** Idempotent. */
  close(): Promise<void>;
}

/** What a Vm has of such devices. Taking away does nothing once the Vm has stopped. */
export interface Passthrough {
  /**
   * The guest finds a part of a BAR at `gpa`, without an exit. Returns a number for `unmap`.
   * @throws SystemError EEXIST if RAM or another part is there.
   */
  map(gpa: number, device: VfioDevice, region: number, area: VfioArea): number;
  /**
   * The same with a part of a file that another process has sent; `fd` is borrowed for the call.
   * @throws SystemError ENODEV if the file is not memory, ERANGE if it is too short, or as `map`.
   */
  mapFile(gpa: number, fd: number, fileOffset: number, sizeBytes: number): number;
  unmap(number: number): void;
  /** KVM knows of the device's group, from its first device on to its last. */
  hold(device: VfioDevice): void;
  drop(device: VfioDevice): void;
  /** `irq` raises a line of level; `resample` is signalled when the guest has handled it. */
  connect(gsi: number, irq: EventFd, resample: EventFd): void;
  disconnect(gsi: number, irq: EventFd): void;
}
