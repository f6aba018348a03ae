/** Gives out addresses of a window, from both of its ends. */
import { alignDown, alignUp } from '../bytes.ts';
import type { GpaRange } from './layout.ts';

/** Nothing is given back: a VM's devices stay as long as it does. */
export class RangeAllocator {
  /** All below is taken. */
  #start: number;
  /** All from here on is taken. */
  #end: number;

  constructor({ gpa, sizeBytes }: GpaRange) {
    this.#start = gpa;
    this.#end = gpa + sizeBytes;
  }

  /** The highest free range that begins at a multiple of `alignBytes`; undefined if none is left. */
  allocate(sizeBytes: number, alignBytes: number): number | undefined {
    const gpa = alignDown(this.#end - sizeBytes, alignBytes);
    if (this.#end - sizeBytes < this.#start || gpa < this.#start) return undefined;
    this.#end = gpa;
    return gpa;
  }

  /** The lowest one. */
  allocateLow(sizeBytes: number, alignBytes: number): number | undefined {
    const gpa = alignUp(this.#start, alignBytes);
    if (gpa + sizeBytes > this.#end) return undefined;
    this.#start = gpa + sizeBytes;
    return gpa;
  }
}
