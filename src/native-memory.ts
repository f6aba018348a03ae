/** What of the native core (native.ts) is about regions of guest RAM. */

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
