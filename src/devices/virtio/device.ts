/**
 * What a virtio device is to its transport, VIRTIO 1.2 §2. A device knows nothing of PCI, of KVM or
 * of the VMM: it has features, a configuration space and, while a driver runs it, virtqueues.
 */
import type { Virtqueue } from '../../native.ts';
import type { IoDomains } from '../../native-iommu.ts';
import type { FileWindow } from '../../native-vhost.ts';

// Bits that any device may offer, §6. The transport offers VERSION_1 for all.
export const F_INDIRECT_DESC = 1n << 28n;
export const F_EVENT_IDX = 1n << 29n;
export const F_VERSION_1 = 1n << 32n;
/** Addresses are those that the device's IOMMU translates. The transport offers it. */
export const F_ACCESS_PLATFORM = 1n << 33n;

/** What a device gets from DRIVER_OK to reset. */
export interface Activation {
  /** What the driver accepted of `VirtioDevice.features`. */
  features: bigint;
  /** By number; undefined where the driver left one disabled. */
  queues: readonly (Virtqueue | undefined)[];
  /** `config` has changed by itself: the driver is told. */
  configChanged(): void;
  /** The device cannot go on: DEVICE_NEEDS_RESET. Broken queues say so themselves. */
  needsReset(reason: string): void;
}

export interface VirtioDevice {
  /** §5: 1 is a network card, 2 a disk … */
  readonly virtioId: number;
  /** Offered to the driver, without VERSION_1. */
  readonly features: bigint;
  /** The most entries that each virtqueue may have. */
  readonly queueSizes: readonly number[];
  /** A queue that the vCPU which kicks serves where it can, see `Virtqueue.shareKicks`. */
  readonly sharedKick?: { readonly queue: number; readonly domains: IoDomains };
  /** The configuration space as the driver reads it now. */
  readonly config: Uint8Array;
  /** Region 0 of the memory that it shares with the driver, if it has one. §2.10 */
  readonly sharedMemory?: FileWindow | undefined;
  /** The driver wrote within `config`, after DRIVER or before. No writable field if absent. */
  writeConfig?(offset: number, sizeBytes: number, value: number): void;

  /** The driver is ready. Within its write of the status, so it starts work and awaits nothing. */
  activate(activation: Activation): void;
  /** Resolves when nothing touches the queues or guest RAM any more. Not only after `activate`. */
  reset(): Promise<void>;
  /** Resolves when no request is in flight. Virtqueues served in TypeScript pause by themselves. */
  pause(): Promise<void>;
  resume(): void;
  /** How many regions of RAM it can be told of; any number if absent. */
  readonly regionsMax?: number;
  /** There is more RAM. Resolves when whoever else serves its queues can reach it. */
  memoryChanged?(): Promise<void>;
  /** What it counted since it was made, by the names of `vm.counters`. At any time. */
  counters?(): Readonly<Record<string, number>>;
  /**
   * Of a disk: changes its size, in bytes, and tells the driver. Not while another verb is at work.
   * @throws VmmError
   */
  resizeDisk?(sizeBytes: number): Promise<void>;
  /** Closes what the constructor opened. The device is reset before. Idempotent. */
  [Symbol.asyncDispose](): Promise<void>;
}
