/** How a tier of the tests tells what came of it: a file that `scripts/test.ts` adds up. */
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';

export interface Counts {
  passed: number;
  failed: number;
  skipped: number;
}

export const DIRECTORY = 'test-results';

export const reportPath = (tier: string): string => join(DIRECTORY, `${tier}.json`);

export const readCounts = (tier: string): Counts =>
  JSON.parse(readFileSync(reportPath(tier), 'utf8')) as Counts;

/** The last act of a tier that is a script of ours. */
export function report(tier: string, counts: Counts): void {
  mkdirSync(DIRECTORY, { recursive: true });
  writeFileSync(reportPath(tier), JSON.stringify(counts));
  console.log(`${counts.passed} passed, ${counts.failed} failed`);
  process.exitCode = counts.failed > 0 ? 1 : 0;
}
