/** A possible vCPU; its ACPI uid is its place in the list. */
export interface Processor {
  apicId: number;
  /** There at boot, rather than plugged later. */
  present: boolean;
  /** The NUMA node it is in, if there are nodes. */
  node?: number | undefined;
}
