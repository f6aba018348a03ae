/** Finds free addresses of a window, from either of its ends. */
import { alignDown, alignUp } from '../bytes.ts';
import type { GpaRange } from './layout.ts';

/** Bytes from a start that is a multiple of `alignBytes`, which is no less than 1. */
interface Wanted {
  sizeBytes: number;
  alignBytes: number;
}

/**
 * The start of the highest range of the window that nothing of `taken` lies in, undefined if there
 * is none. What is taken may overlap, and lie anywhere: a guest has a say in it.
 */
export function highestFree(
  window: GpaRange,
  taken: readonly GpaRange[],
  { sizeBytes, alignBytes }: Wanted,
): number | undefined {
  let end = window.gpa + window.sizeBytes;
  while (end - sizeBytes >= window.gpa) {
    const gpa = alignDown(end - sizeBytes, alignBytes);
    if (gpa < window.gpa) return undefined;
    const other = taken.find((range) => overlap(range, { gpa, sizeBytes }));
    if (!other) return gpa;
    end = other.gpa;
  }
  return undefined;
}

/** The same of the lowest one. */
export function lowestFree(
  window: GpaRange,
  taken: readonly GpaRange[],
  { sizeBytes, alignBytes }: Wanted,
): number | undefined {
  const end = window.gpa + window.sizeBytes;
  let gpa = alignUp(window.gpa, alignBytes);
  while (gpa + sizeBytes <= end) {
    const other = taken.find((range) => overlap(range, { gpa, sizeBytes }));
    if (!other) return gpa;
    gpa = alignUp(other.gpa + other.sizeBytes, alignBytes);
  }
  return undefined;
}

const overlap = (a: GpaRange, b: GpaRange): boolean =>
  a.gpa < b.gpa + b.sizeBytes && b.gpa < a.gpa + a.sizeBytes;
