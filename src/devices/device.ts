/**
 * What a device is to the machine around it. Interfaces only: a device imports this, its family's
 * `device.ts` and foundations; never another device, never the VMM.
 */
import type { AccessHandler, Claim, EventFd, GuestMemory, LateHandler, Vm } from '../native.ts';
import type { MappingFollower } from '../native-iommu.ts';
import type { RateLimiter } from '../native-limits.ts';
import type { RegionOptions } from '../native-memory.ts';
import type { Passthrough, VfioDevice } from '../native-vfio.ts';
import type { Aml } from './acpi/aml.ts';
import type { IommuDomains } from './virtio/iommu-domains.ts';

/** A device at fixed ports or guest physical addresses, answered on the JS thread. */
export interface BusDevice extends AccessHandler {
  readonly claims: readonly Claim[];
}

/** The same, where an answer may come later. */
export interface LateBusDevice extends LateHandler, Pick<BusDevice, 'claims'> {}

/** Has nodes of its own in the guest's DSDT. */
export interface AmlSource {
  /** Terms that stand in `\_SB_`. */
  aml(): Aml[];
}

/** A memory BAR as vm.info tells of it. */
export interface FunctionBar {
  index: number;
  width: 32 | 64;
  sizeBytes: number;
  /** Where the guest has put it, also while it does not answer. */
  gpa: number;
}

/** Where a function of a PCI bus is: each segment has one bus, and each slot one function. */
export interface PciPlace {
  segment: number;
  slot: number;
}

/** What stands in a slot of a PCI bus. */
export interface PciFunction {
  /** Its configuration registers, 4 KiB of them. */
  readonly space: LateHandler;
  readonly bars: readonly FunctionBar[];
  /** Resolves when no request is in flight. The vCPUs stand still meanwhile. */
  pause(): Promise<void>;
  resume(): void;
  /** Resolves when it knows where RAM is now. */
  memoryChanged?(): Promise<void>;
  /** What it counted since it was made, by the names of `vm.counters`. At any time. */
  counters?(): Readonly<Record<string, number>> | undefined;
  /** Of a disk: see `VirtioDevice.resizeDisk`. */
  readonly resizeDisk?: ((sizeBytes: number) => Promise<void>) | undefined;
  /** Behind an IOMMU: who is to hear what is mapped for it. */
  readonly follower?: MappingFollower | undefined;
  /** Its BARs answer nowhere from now on. While the VM runs, before it is disposed of. */
  unplug(): void;
  /** Closes what it holds, once it is unplugged or the VM has stopped. Idempotent. */
  [Symbol.asyncDispose](): Promise<void>;
}

/** As clients read it. */
export type PanicEvent = 'panic' | 'crash_loaded' | 'unknown_event';

/** What a device is given when it is made, besides its config. */
export interface DeviceContext {
  /** As in the config: unique in the VM. */
  readonly id: string;
  readonly memory: GuestMemory;
  /** By id. What devices share; one that limits nothing is not there. */
  readonly rateLimitGroups: ReadonlyMap<string, RateLimiter>;
  /** Odd, but contained. A guest may cause it at will, so the log limits it. */
  onWarning(message: string): void;
  /** For RAM that the guest plugs by the block: by the id of its device. */
  readonly blocks: ReadonlyMap<string, PluggableBlocks>;
  /** Others are told which of them are plugged now. */
  blocksChanged(): Promise<void>;
  /**
   * Gives the host back RAM that the guest does not need for now, as GuestMemory.discard; nothing
   * while a device of the host's own reaches it, which would go on using the old pages.
   */
  discard(ranges: Float64Array): Promise<void>;
  /** For the IOMMU: who is behind it. */
  readonly iommu: IommuDomains | undefined;
  /** For devices of the host's own. */
  readonly passthrough: PassthroughHost;
  /** Of the interrupt line of its slot. */
  readonly lineGsi: number;
  /** The host wants the device back: the guest is to lose it. */
  onReclaim(): void;
  /** For the console. */
  readonly console: CharHost;
  /** The guest's kernel says that it has come to its end. */
  onPanic(event: PanicEvent): void;
  /** As if the guest had asked for it. */
  resetGuest(): void;
  /**
   * Puts a file, a multiple of 4 KiB of it, at guest physical addresses of its own, and returns the
   * first. It stays there as long as the VM. @throws VmmError if there is no room for it.
   */
  mapFile(options: FileMapping): number;
  /** For the BARs of a PCI function that no virtio transport carries. */
  readonly vm: Pick<Vm, 'claim' | 'release' | 'msi'>;
  /** Finds a place for such a BAR, a power of two in size. @throws VmmError if none is left. */
  placeBar(width: 32 | 64, sizeBytes: number): number;
}

/** Where blocks of RAM may be plugged; address and sizes are multiples of `blockBytes`. */
export interface PluggableBlocks {
  gpa: number;
  regionBytes: number;
  blockBytes: number;
  /** How much of it, from its start on, is RAM by now. */
  usableBytes: number;
  /** What the guest is asked to plug in all, at first. */
  requestedBytes: number;
  /** One a block: whether it is plugged. */
  readonly plugged: Uint8Array;
  /** The NUMA node of the guest that they are in, if it has any. */
  node?: number;
}

/** What a VM's devices of the host's own share. */
export interface PassthroughHost {
  readonly guest: Passthrough;
  openEventFd(): EventFd;
  /**
   * Opens a device, which reaches all of the guest's memory from then on; `reach`, of one behind
   * the virtio-iommu, is what it reaches until its follower hears more.
   * @throws SystemError, and then nothing of it is left.
   */
  open(group: string, name: string, reach?: 'ram' | 'nothing'): Promise<VfioDevice>;
  /** Of a device behind the virtio-iommu. */
  followerOf(device: VfioDevice): MappingFollower | undefined;
  /** Resets it and gives it back to the host. */
  close(device: VfioDevice): Promise<void>;
  /** Whether BARs may lie there. */
  isWindow(gpa: number, sizeBytes: number): boolean;
}

export interface FileMapping extends Required<Pick<RegionOptions, 'privateCopy' | 'readonly'>> {
  /** Borrowed for the call. */
  fd: number;
  sizeBytes: number;
  mergeable: boolean;
}

/** The host's side of a device that carries characters. */
export interface CharHost {
  /** Never waits: the newest 64 KiB are kept for who reads slowly, or comes later. */
  write(bytes: Uint8Array): void;
  /** Input for the guest, oldest first; more may follow it. Empty if there is none. */
  peek(): Uint8Array;
  /** The guest has the first `count` bytes of it. */
  drop(count: number): void;
  /** Of the terminal that it is, in characters; 0 if it is none. */
  windowSize(): { cols: number; rows: number };
  /** Once. `onInput` runs when there is input, and was none before; both may run at any time. */
  listen(listener: { onInput: () => void; onResize: () => void }): void;
}
