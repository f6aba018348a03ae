/**
 * Builds and runs the tests of the core, test/native/, twice: under ASan with UBSan and under TSan.
 * Then every state of the mailbox's model, mailbox.pml, is visited.
 * Objects are kept under build/native-tests by the hash of what they are made from.
 */
import { mkdtempSync, readdirSync, rmSync } from 'node:fs';
import { basename, join, resolve } from 'node:path';
import { compile, link, type Toolchain } from './check/cpp-build.ts';
import { inParallel, run } from './check/job.ts';
import { coreHeaders, coreSources } from './check/sources.ts';
import { report } from './counts.ts';

const RUN_TIME = { ASAN_OPTIONS: 'detect_leaks=1', TSAN_OPTIONS: 'halt_on_error=1' };
const FLAGS = ['-std=c++20', '-O1', '-g', '-fno-omit-frame-pointer', '-Wall', '-Wextra', '-Werror'];
const TIMEOUT_MS = 120_000;

const BUILD = 'build/native-tests';
const TESTS = 'test/native';
const testFiles = (end: string): string[] =>
  readdirSync(TESTS)
    .filter((name) => name.endsWith(end))
    .map((name) => join(TESTS, name));
const headers = [...coreHeaders, ...testFiles('.h')];
const tests = testFiles('_test.cc');

const gcc = (...sanitizers: string[]): Toolchain => ({
  directory: BUILD,
  compiler: 'g++',
  flags: [...FLAGS, ...sanitizers],
  headers,
});
const TOOLCHAINS = {
  asan: gcc('-fsanitize=address,undefined', '-fno-sanitize-recover=all'),
  tsan: gcc('-fsanitize=thread'),
};

interface Build {
  sanitizer: keyof typeof TOOLCHAINS;
  source: string;
}

const forEach = (sources: readonly string[]): Build[] =>
  (Object.keys(TOOLCHAINS) as Build['sanitizer'][]).flatMap((sanitizer) =>
    sources.map((source) => ({ sanitizer, source })),
  );

const counts = { passed: 0, failed: 0, skipped: 0 };

async function runTest(build: Build): Promise<void> {
  const test = basename(build.source, '_test.cc');
  const name = `${build.sanitizer} ${test}`;
  const sources = [build.source, ...coreSources];
  const tools = TOOLCHAINS[build.sanitizer];
  const executable = await link(tools, `${build.sanitizer}-${test}`, sources, '-lz');
  const { ok, output } = await run([executable], RUN_TIME, TIMEOUT_MS);
  const passed = output.split('\n').filter((line) => line.endsWith(': ok'));
  for (const line of passed) console.log(`${name}: ${line}`);
  counts.passed += passed.length;
  if (ok) return;
  counts.failed++;
  console.log(`${name}: failed\n${output}`);
}

/** Visits every state of the mailbox's protocol: `pan` is what spin makes of the model. */
async function checkModel(): Promise<void> {
  const model = resolve(TESTS, 'mailbox.pml');
  const directory = mkdtempSync(join(BUILD, 'model-'));
  const steps = `spin -a '${model}' && gcc -O2 -DSAFETY -o pan pan.c && ./pan -m100000`;
  const { output } = await run(['sh', '-c', `cd '${directory}' && ${steps}`]);
  rmSync(directory, { recursive: true });
  const ok = /errors: 0$/m.test(output);
  console.log(`model mailbox: no vCPU is left asleep: ${ok ? 'ok' : `failed\n${output}`}`);
  counts[ok ? 'passed' : 'failed']++;
}

await inParallel(forEach([...coreSources, ...tests]), ({ sanitizer, source }) =>
  compile(TOOLCHAINS[sanitizer], source),
);
await inParallel(forEach(tests), runTest);
await checkModel();
report('native', counts);
