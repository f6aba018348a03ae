/**
 * A tier of the tests that is a vitest project. The few tests that fail in it run once more, by
 * themselves: what passes then is unsteady, which is a defect of the test or of the product and is
 * said at the end of the run, but tells nothing about the change at hand.
 */
import { spawnSync } from 'node:child_process';
import { existsSync, readFileSync, rmSync } from 'node:fs';
import { relative } from 'node:path';
import { type Counts, reportPath } from './counts.ts';

/** More failures than these in one tier are a broken product, and are not run again. */
const MAX_AGAIN = 3;

export interface Failure {
  /** Relative to the repository. */
  file: string;
  /** As `vitest -t` matches it; empty if the file failed as a whole. */
  name: string;
  message: string;
}

export interface Outcome extends Counts {
  failures: Failure[];
  /** Failed at first, passed when run by themselves. */
  unsteady: Failure[];
}

/** What is read of vitest's JSON report. */
interface Report {
  numPassedTests: number;
  numFailedTests: number;
  numTotalTests: number;
  testResults: {
    name: string;
    status: string;
    message: string;
    assertionResults: { fullName: string; status: string; failureMessages: string[] }[];
  }[];
}

export function runVitest(project: string): Outcome {
  const first = runOnce(project, reportPath(project), []);
  const { failures } = first;
  if (failures.length === 0 || failures.length > MAX_AGAIN) return first;
  if (failures.some(({ name }) => name === '')) return first;

  console.log(`\n── ${project}: once more, what failed\n${failures.map(describe).join('\n')}`);
  const names = failures.map(({ name }) => name.replace(/[.*+?^${}()|[\]\\]/g, '\\$&'));
  const files = new Set(failures.map(({ file }) => file));
  const again = runOnce(project, reportPath(`${project}-again`), [
    ...files,
    '-t',
    `^(${names.join('|')})$`,
  ]);
  if (again.passed + again.failed < failures.length || again.failures.some((f) => f.name === '')) {
    return first; // not all of them ran
  }
  const unsteady = failures.filter((failure) => !again.failures.some((f) => same(f, failure)));
  return {
    passed: first.passed + unsteady.length,
    failed: first.failed - unsteady.length,
    skipped: first.skipped,
    failures: failures.filter((failure) => !unsteady.includes(failure)),
    unsteady,
  };
}

export const describe = ({ file, name, message }: Failure): string =>
  `  ${file}${name && ` > ${name}`}: ${message}`;

const same = (a: Failure, b: Failure): boolean => a.file === b.file && a.name === b.name;

function runOnce(project: string, path: string, filters: string[]): Outcome {
  rmSync(path, { force: true });
  const reporters = ['--reporter=default', '--reporter=json', `--outputFile.json=${path}`];
  const args = ['vitest', 'run', '--project', project, ...reporters, ...filters];
  const { status } = spawnSync('npx', args, { stdio: 'inherit' });
  if (!existsSync(path)) return broken(project, 'vitest made no report');

  const report = JSON.parse(readFileSync(path, 'utf8')) as Report;
  const failures = failuresOf(report);
  if (status !== 0 && failures.length === 0) failures.push(fault(project, `exit code ${status}`));
  const { numPassedTests: passed, numFailedTests, numTotalTests } = report;
  return {
    passed,
    failed: Math.max(numFailedTests, failures.length),
    skipped: Math.max(0, numTotalTests - passed - numFailedTests),
    failures,
    unsteady: [],
  };
}

function failuresOf(report: Report): Failure[] {
  return report.testResults.flatMap(({ name, status, message, assertionResults }) => {
    const file = relative('.', name);
    const failed = assertionResults.filter((result) => result.status === 'failed');
    if (status === 'failed' && failed.length === 0) return [{ file, name: '', ...first(message) }];
    return failed.map(({ fullName, failureMessages }) => ({
      file,
      name: fullName,
      ...first(failureMessages[0] ?? ''),
    }));
  });
}

const first = (message: string): { message: string } => ({
  message: message.split('\n', 1)[0] ?? '',
});

const fault = (project: string, message: string): Failure => ({ file: project, name: '', message });

const broken = (project: string, message: string): Outcome => ({
  passed: 0,
  failed: 1,
  skipped: 0,
  failures: [fault(project, message)],
  unsteady: [],
});
