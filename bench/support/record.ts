/** What a bench has measured, as a table and as JSON. */
import { writeFileSync } from 'node:fs';
import { cpus } from 'node:os';

/** Milliseconds, or what else the measure names, one a round, by measure and subject. */
export type Samples = Map<string, Map<string, number[]>>;

/** A goal: the measure of ours, at most `limit`, or `limit` times that of another subject. */
export interface Goal {
  measure: string;
  limit: number;
  /** The subject, of the same measure if no other is named. */
  times?: string | { measure: string; subject: string };
}

export function add(samples: Samples, measure: string, subject: string, ms: number): void {
  const bySubject = samples.get(measure) ?? new Map<string, number[]>();
  samples.set(measure, bySubject);
  bySubject.set(subject, [...(bySubject.get(subject) ?? []), ms]);
}

export function median(values: readonly number[]): number {
  const sorted = [...values].sort((a, b) => a - b);
  const middle = sorted.length / 2;
  const [low = Number.NaN, high = low] = sorted.slice(
    Math.ceil(middle) - 1,
    Math.floor(middle) + 1,
  );
  return (low + high) / 2;
}

function verdict(samples: Samples, { measure, limit, times }: Goal): string {
  const of = (what: string, subject: string) => median(samples.get(what)?.get(subject) ?? []);
  const peer = typeof times === 'string' ? { measure, subject: times } : times;
  const ours = of(measure, 'ours');
  const value = peer ? ours / of(peer.measure, peer.subject) : ours;
  const other = peer && peer.measure !== measure ? ` (${peer.measure})` : '';
  const unit = peer ? ` × ${peer.subject}${other}` : '';
  const met = value <= limit ? 'met' : 'MISSED';
  return `goal ≤ ${limit}${unit}: ${value.toFixed(2)}${unit}, ${met}`;
}

const thisMachine = () => ({ cpu: cpus()[0]?.model, cpus: cpus().length });

/**
 * Prints a Markdown table, and writes the record if asked for.
 * @param place what the subjects ran on.
 */
export function report(
  name: string,
  samples: Samples,
  goals: readonly Goal[],
  json?: string,
  place: object = thisMachine(),
): void {
  console.log(`| ${name} | subject | min | median | max |\n| --- | --- | --- | --- | --- |`);
  for (const [measure, bySubject] of samples)
    for (const [subject, values] of bySubject) {
      const figures = [Math.min(...values), median(values), Math.max(...values)];
      console.log(`| ${[measure, subject, ...figures.map((ms) => ms.toFixed(2))].join(' | ')} |`);
    }
  const verdicts = goals.map((goal) => `${goal.measure}: ${verdict(samples, goal)}`);
  console.log(`\n${verdicts.join('\n')}`);
  if (json === undefined) return;
  const figures = Object.fromEntries(
    [...samples].map(([measure, bySubject]) => [measure, Object.fromEntries(bySubject)]),
  );
  const date = new Date().toISOString();
  const head = { bench: name, date, place: { node: process.version, ...place } };
  writeFileSync(json, `${JSON.stringify({ ...head, ms: figures, verdicts })}\n`);
}
