/**
 * Runs the tiers of the tests, cheap ones first, and ends with a line that counts all of them:
 * `123 passed, 0 failed`. A tier that fails does not keep the next ones from running.
 */
import { spawn, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, mkdirSync, openSync, readFileSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { conformance } from './conformance.ts';
import { type Counts, DIRECTORY, readCounts, reportPath } from './counts.ts';
import { describe, type Outcome, runVitest } from './vitest-tier.ts';

interface Tier {
  name: string;
  run: () => Result | Promise<Result>;
  /** The tier that it may run beside, once started. */
  beside?: string;
  start?: () => void;
}

type Result = Counts & Partial<Outcome>;

const BROKEN: Counts = { passed: 0, failed: 1, skipped: 0 };

/** One command that passes or fails as a whole counts as one test. */
const command = (name: string, ...argv: [string, ...string[]]): Tier => ({
  name,
  run: () => {
    const [file, ...args] = argv;
    const ok = spawnSync(file, args, { stdio: 'inherit' }).status === 0;
    return { passed: ok ? 1 : 0, failed: ok ? 0 : 1, skipped: 0 };
  },
});

const TSX = 'node_modules/.bin/tsx';

const reported = (name: string): Counts =>
  existsSync(reportPath(name)) ? readCounts(name) : BROKEN;

/** A script of ours, which reports its own counts. */
const script = (name: string, ...argv: [string, ...string[]]): Tier => ({
  name,
  run: () => {
    rmSync(reportPath(name), { force: true });
    spawnSync(TSX, argv, { stdio: 'inherit' });
    return reported(name);
  },
});

/** A script that takes only the CPU time which the tier that it runs beside leaves. */
function idleScript(name: string, beside: string, ...argv: [string, ...string[]]): Tier {
  const log = join(DIRECTORY, `${name}.log`);
  let ended: Promise<unknown> | undefined;
  const start = () => {
    rmSync(reportPath(name), { force: true });
    const output = openSync(log, 'w');
    const stdio = ['ignore', output, output] as const;
    ended = once(spawn('chrt', ['--idle', '0', TSX, ...argv], { stdio: [...stdio] }), 'exit');
  };
  const run = async () => {
    if (!ended) start();
    await ended;
    console.log(readFileSync(log, 'utf8').trimEnd());
    return reported(name);
  };
  return { name, beside, start, run };
}

const vitest = (project: string): Tier => ({ name: project, run: () => runVitest(project) });

/** A tier for hosts that have `path`; elsewhere it counts as one test, skipped. */
const needs = (path: string, tier: Tier): Tier => ({
  name: tier.name,
  run: () => {
    if (existsSync(path)) return tier.run();
    console.log(`skipped: no ${path}`);
    return { passed: 0, failed: 0, skipped: 1 };
  },
});

const TIERS: Tier[] = [
  script('check', 'scripts/check.ts', '--without', 'clang-tidy'),
  command('build', TSX, 'scripts/build.ts'),
  vitest('unit'),
  vitest('contract'),
  vitest('compat'),
  script('native', 'scripts/native-tests.ts'),
  script('fuzz', 'scripts/fuzz.ts'),
  needs('/dev/kvm', vitest('kvm')),
  needs('/dev/kvm', vitest('clients')),
  needs('/dev/kvm', command('soak', TSX, 'scripts/soak.ts', '--minutes', '3')),
  vitest('e2e'),
  idleScript('tidy', 'e2e', 'scripts/check.ts', '--tier', 'tidy', 'clang-tidy'),
];

const wanted = process.argv.slice(2);
const unknown = wanted.filter((name) => !TIERS.some((tier) => tier.name === name));
if (unknown.length > 0) {
  console.error(`No tier ${unknown.join(', ')}: there are ${TIERS.map((t) => t.name).join(', ')}`);
  process.exit(2);
}

mkdirSync(DIRECTORY, { recursive: true });
const total: Counts = { passed: 0, failed: 0, skipped: 0 };
const failed: string[] = [];
const unsteady: string[] = [];
const tiers = TIERS.filter(({ name }) => wanted.length === 0 || wanted.includes(name));
for (const tier of tiers) {
  for (const { beside, start } of tiers) if (beside === tier.name) start?.();
  console.log(`\n── ${tier.name}`);
  const started = Date.now();
  const counts = await tier.run();
  console.log(`── ${tier.name}: ${((Date.now() - started) / 1000).toFixed(1)} s`);
  total.passed += counts.passed;
  total.failed += counts.failed;
  total.skipped += counts.skipped;
  if (counts.failed > 0) failed.push(tier.name, ...(counts.failures ?? []).map(describe));
  unsteady.push(...(counts.unsteady ?? []).map(describe));
}
if (unsteady.length > 0) console.log(`\nUnsteady, passed when run again:\n${unsteady.join('\n')}`);
if (failed.length > 0) console.log(`\nFailed:\n${failed.join('\n')}`);
// CI must not take for tested what was skipped.
const forbidden = process.env['CI'] === 'true' && total.skipped > 0;
if (forbidden) console.log('Skipped tests are failures in CI');
console.log(`\n${conformance()}`);
const skipped = total.skipped > 0 ? `, ${total.skipped} skipped` : '';
console.log(
  `\n${total.passed} passed, ${total.failed + (forbidden ? total.skipped : 0)} failed${skipped}`,
);
process.exitCode = total.failed > 0 || forbidden ? 1 : 0;
