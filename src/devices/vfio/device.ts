/** What a function that is handed to a guest is made of, be it the kernel's or another process's. */
import type { EventFd, Later } from '../../native.ts';
import type { MappingFollower } from '../../native-iommu.ts';
import type { VfioArea, VfioRegion } from '../../native-vfio.ts';

/**
 * The device behind such a function. Regions and interrupts have the indexes of `VFIO` in
 * native-vfio.ts. What a device of another process says has been checked, but may be a lie.
 */
export interface VfioBackend {
  readonly regions: readonly VfioRegion[];
  readonly irqCounts: readonly number[];
  /** Its configuration space, 256 bytes or 4 KiB. Rejects if it is gone. */
  readConfig(): Promise<Uint8Array>;
  /** 1, 2 or 4 bytes; all ones once it is gone. Never rejects, nor does `write`. */
  read(region: number, offset: number, sizeBytes: number): Later<number>;
  write(region: number, offset: number, sizeBytes: number, value: number): Later<void>;
  /** As Passthrough.map. @throws SystemError */
  map(gpa: number, region: number, area: VfioArea): number;
  /** What interrupts signal from now on; none of them without any. @throws SystemError */
  setIrqs(index: number, events: readonly EventFd[]): void;
  /** What signals that its interrupt line may be raised again. @throws SystemError */
  setUnmask(event: EventFd): void;
  /** When it has done all that it was told; undefined if it has. Never rejects. */
  settled(): Promise<void> | undefined;
  /** Whoever has it wants it back. */
  onRequest(handler: () => void): void;
  /** Behind an IOMMU: who is to hear what is mapped for it. */
  readonly follower?: MappingFollower | undefined;
  /** Resolves when it knows where the guest's memory is now. Absent if nobody need tell it. */
  memoryChanged?(): Promise<void>;
  /** Rejects if it has no reset, or is gone. */
  reset(): Promise<void>;
  /** Resets it as far as it can be, and lets go of it. Idempotent. */
  close(): Promise<void>;
}
