/** What of the native core (native.ts) is about guest RAM. */
import type { SharedRegion } from './native-vhost.ts';

/** One range of guest RAM. Ranges do not overlap; `gpa` and `sizeBytes` are multiples of 4 KiB. */
export interface RegionOptions {
  gpa: number;
  sizeBytes: number;
  /** A memfd mapped shared, so that another process can be handed the RAM; else anonymous. */
  shared: boolean;
  /** Linux may back it by transparent huge pages. */
  thp: boolean;
  /** Linux may merge equal pages of it with those of other VMs. */
  mergeable?: boolean;
  /** Swap is set aside for all of it now. */
  reserve?: boolean;
  /** Backed by huge pages of this size, a power of two, all set aside now; 0 for ordinary ones. */
  hugePageBytes?: number;
  /** Maps this file, shared, from `fileOffset` on. Borrowed for the call. */
  fd?: number;
  fileOffset?: number;
  /** What is written does not reach the file. */
  privateCopy?: boolean;
  /** The guest's writes go nowhere, and no device may write there. */
  readonly?: boolean;
  /** The guest may give its contents back: it is RAM, not a file of somebody's. */
  discardable?: boolean;
  /** Pages come from this NUMA node of the host, and from no other. */
  hostNode?: number;
}

/** Guest RAM. Never an ArrayBuffer: a copy in or out is checked, whatever the guest does. */
export interface GuestMemory {
  /** Reserves the range and gives it to the VM; pages come when they are touched. */
  addRegion(options: RegionOptions): void;
  /**
   * Takes out the region that begins at `gpa`: it is no RAM from now on, and `Vm.mapMemory` takes it
   * from the guest. Resolves when the host has back what it consisted of; what is in flight there
   * finds zeroes, and its writes go nowhere. @throws SystemError ENOENT
   */
  removeRegion(gpa: number): Promise<void>;
  /** @throws SystemError EFAULT, nothing copied, unless all of the range is RAM. */
  read(gpa: number, into: Uint8Array): void;
  write(gpa: number, from: Uint8Array): void;
  /**
   * Reads `length` bytes of a file straight into RAM, on a worker thread.
   * Rejects: EFAULT if not all RAM, ENODATA if the file ends early, or what pread(2) says.
   */
  load(gpa: number, fd: number, offset: number, length: number): Promise<void>;
  /** Touches every page of the region at `gpa` on a worker thread, so that no access faults later. */
  prefault(gpa: number): Promise<void>;
  /**
   * Gives the host back what lies in `ranges`, pairs of address and length, on a worker thread: it
   * reads as zero afterwards. What is no discardable region, or no whole page, stays as it is.
   * Rejects with the last failure when it has tried all of them.
   */
  discard(ranges: Float64Array): Promise<void>;
  /** What another process can map. */
  regions(): SharedRegion[];
  /** Idempotent. Call it when no Vm uses the RAM: what is mapped is unmapped, on a worker. */
  close(): Promise<void>;
}
