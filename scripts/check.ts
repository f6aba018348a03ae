/**
 * Runs the gates that need no test: `npm run check`, `npm run check -- biome tsc` for some, or
 * `npm run check -- --without clang-tidy` for all others. `--tier NAME` is whose counts they are.
 * A line each with its time, what is wrong below it, and a last line that counts.
 */
import { parseArgs } from 'node:util';
import { clangJobs, formatJobs, gccJobs, tidyJobs } from './check/cpp.ts';
import { command, inParallel, type Job } from './check/job.ts';
import { commitSubjects, sourceRules } from './check/tidy.ts';
import { report } from './counts.ts';

interface Check {
  name: string;
  jobs: () => Job[];
}

const tool = (name: string, ...args: string[]): Check => ({
  name,
  jobs: () => [command(`node_modules/.bin/${name}`, ...args)],
});

/** The quick ones first: most mistakes are theirs. */
const CHECKS: Check[] = [
  tool('biome', 'check', '--error-on-warnings', '.'),
  tool('tsc', '-p', '.'),
  tool('depcruise', '--config', '.dependency-cruiser.cjs', 'src'),
  tool('knip'),
  { name: 'rules', jobs: () => [sourceRules] },
  { name: 'commits', jobs: () => [commitSubjects] },
  { name: 'clang-format', jobs: formatJobs },
  { name: 'gcc', jobs: gccJobs },
  { name: 'clang', jobs: clangJobs },
  { name: 'clang-tidy', jobs: tidyJobs },
];

const { values, positionals: wanted } = parseArgs({
  options: {
    without: { type: 'string', multiple: true, default: [] },
    tier: { type: 'string', default: 'check' },
  },
  allowPositionals: true,
});
const unknown = [...wanted, ...values.without].filter(
  (name) => !CHECKS.some((check) => check.name === name),
);
if (unknown.length > 0) {
  const known = CHECKS.map((check) => check.name).join(', ');
  console.error(`No check ${unknown.join(', ')}: there are ${known}`);
  process.exit(2);
}

const selected = CHECKS.filter(
  ({ name }) => (wanted.length === 0 || wanted.includes(name)) && !values.without.includes(name),
);
const running = selected.map(({ name, jobs }) => {
  const all = jobs();
  return { name, all, left: all.length, ms: 0, wrong: [] as string[] };
});
let failed = 0;

await inParallel(
  running.flatMap((check) => check.all.map((job) => ({ check, job }))),
  async ({ check, job }) => {
    const start = performance.now();
    const wrong = await job();
    check.ms += performance.now() - start;
    if (wrong !== '') check.wrong.push(wrong.trimEnd());
    if (--check.left > 0) return;
    const verdict = check.wrong.length === 0 ? 'ok' : 'failed';
    console.log(`${check.name}: ${verdict} (${(check.ms / 1000).toFixed(1)} s)`);
    for (const text of check.wrong) console.log(text);
    if (check.wrong.length > 0) failed++;
  },
);
report(values.tier, { passed: selected.length - failed, failed, skipped: 0 });
