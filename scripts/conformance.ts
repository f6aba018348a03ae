/** How much of the original's API there is, as docs/api-compat.md tells row by row. */
import { readFileSync } from 'node:fs';

const ROW = /^\| `[^|]+` +\| (works|refused|not yet) +\|/gm;

/** A line for people. */
export function conformance(): string {
  const states = [...readFileSync('docs/api-compat.md', 'utf8').matchAll(ROW)].map(([, s]) => s);
  const working = states.filter((state) => state === 'works').length;
  return `Conformance: ${working} of ${states.length} rows of docs/api-compat.md work`;
}
