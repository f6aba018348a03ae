/** How much of the original's surface there is, as docs/api-compat.md tells row by row. */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';

const DOCUMENT = join(import.meta.dirname, '../docs/api-compat.md');
const ROW = /^\| `([^|`]+)` +\| (works|refused|not yet) +\| *(.*?) *\|$/gm;

/** The sections that have a row for each of theirs. */
export type Surface = 'Endpoints' | 'Flags' | 'Fields';
const SURFACES: readonly Surface[] = ['Endpoints', 'Flags', 'Fields'];

export interface Row {
  name: string;
  state: 'works' | 'refused' | 'not yet';
  why: string;
}

export function rowsOf(surface: Surface): Row[] {
  const [, section = ''] = readFileSync(DOCUMENT, 'utf8').split(`\n## ${surface}\n`);
  const [own = ''] = section.split('\n## ');
  return [...own.matchAll(ROW)].map(([, name = '', state, why = '']) => ({
    ...{ name, why },
    state: state as Row['state'],
  }));
}

/** A line for people. */
export function conformance(): string {
  const counts = SURFACES.map((surface) => {
    const rows = rowsOf(surface);
    const working = rows.filter(({ state }) => state === 'works').length;
    return { working, all: rows.length, surface: surface.toLowerCase() };
  });
  const sum = (of: 'working' | 'all') => counts.reduce((total, count) => total + count[of], 0);
  const parts = counts.map(({ working, all, surface }) => `${working} of ${all} ${surface}`);
  return `Conformance: ${sum('working')} of ${sum('all')} rows work: ${parts.join(', ')}`;
}
