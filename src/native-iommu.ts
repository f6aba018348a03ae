/** What of the native core (native.ts) is about devices behind an IOMMU, and who follows it. */

/** What the domains of one IOMMU have in common. I/O virtual addresses, both ends included. */
export interface IoLimits {
  /** Of the addresses that can be mapped. */
  last: bigint;
  /** Never mapped. */
  reservedFirst: bigint;
  reservedLast: bigint;
  /** Of all domains together. */
  mappingsMax: number;
}

/**
 * The domains that a driver may map in by itself: with `Virtqueue.shareKicks` and `Vm.claimKick` its
 * MAP and UNMAP are answered by the vCPU's thread that kicks, and all else here. At any time.
 */
export interface IoDomains {
  /** @param id as the driver calls it, 32 bits. */
  put(id: number, domain: IoDomain): void;
  /** After it no vCPU maps there any more. */
  remove(id: number): void;
}

/** The mappings of a domain, VIRTIO 1.2 §5.13.6. A status is as its answer has it. */
export interface IoDomain {
  /** MAP, with what the driver wrote: all of it, or if the status is not 0, nothing. */
  map(first: bigint, last: bigint, gpa: bigint, flags: number): number;
  /**
   * UNMAP: takes out all mappings of the range, or, if the status is not 0, none, as where one of
   * them lies there in part.
   */
  unmap(first: bigint, last: bigint): Unmapped;
  /** All there are, in the order of their addresses. */
  mappings(): IovaMapping[];
}

/** I/O virtual addresses, both ends included, and where in guest RAM they lie. */
export interface IovaMapping {
  first: bigint;
  last: bigint;
  gpa: bigint;
  isReadable: boolean;
  isWritable: boolean;
}

export interface Unmapped {
  status: number;
  /** How many mappings that were. */
  count: number;
  /**
   * Somebody is at work there: resolves when nobody reaches by these mappings any more. Who holds
   * some for long hears of it by `DmaSpace.moveOn` and a kick.
   */
  inUse: Promise<void> | undefined;
}

/** What a device behind an IOMMU reaches: at first, nothing. */
export interface DmaSpace {
  /**
   * From now on it goes by the mappings of a domain; without one, by the addresses of guest RAM or,
   * unless `isBypassed`, nowhere. Resolves, if there is anything to wait for, when nothing of it is
   * under way by what was before; who holds that for long hears of it by a kick.
   */
  attach(domain: IoDomain | undefined, isBypassed: boolean): Promise<void> | undefined;
  /** Has its queues, with their next kick, let go of what has been unmapped. */
  moveOn(): void;
}

/** I/O virtual addresses, both ends included. */
export interface IovaRange {
  first: bigint;
  last: bigint;
}

/**
 * Who reaches guest memory by mappings of its own, as the host's IOMMU, and is told of each change.
 * Told one thing at a time: what it returned has settled before it hears of the next.
 */
export interface MappingFollower {
  /** Where nothing can be mapped for it. */
  readonly reserved?: readonly IovaRange[];
  /**
   * From now on it reaches what is mapped in a domain, all of guest RAM, or nothing. Throws or
   * rejects if it cannot, and reaches nothing then.
   */
  attached(to: IoDomain | 'ram' | 'nothing'): Promise<void> | undefined;
  /** Throws or rejects if it cannot reach that, and has nothing of it then. */
  mapped(mapping: IovaMapping): Promise<void> | undefined;
  /** Done, or resolves, when it reaches nothing of the range, which takes no mapping apart. */
  unmapped(first: bigint, last: bigint): Promise<void> | undefined;
}
