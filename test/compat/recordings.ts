/** What the original answered when it was run: request and response pairs. */
import { readFileSync } from 'node:fs';

export interface Step {
  name: string;
  request?: { method: string; path?: string; body?: unknown };
  response?: { status: number; body: unknown };
}

export const recording = <T = Step>(file: string): T[] =>
  JSON.parse(readFileSync(new URL(`fixtures/${file}.json`, import.meta.url), 'utf8'));
