/**
 * Builds and runs the tests of the core, test/native/, twice: under ASan with UBSan and under TSan.
 * Then every state of the mailbox's model, mailbox.pml, is visited.
 * Objects are kept under build/native-tests by the hash of what they are made from.
 */
import { existsSync, mkdirSync, mkdtempSync, readdirSync, renameSync, rmSync } from 'node:fs';
import { basename, join, resolve } from 'node:path';
import { inParallel, run } from './check/job.ts';
import { contentHash, coreHeaders, coreSources } from './check/sources.ts';
import { report } from './counts.ts';

const SANITIZERS = {
  asan: ['-fsanitize=address,undefined', '-fno-sanitize-recover=all'],
  tsan: ['-fsanitize=thread'],
};
type Sanitizer = keyof typeof SANITIZERS;
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

/** Runs the compiler unless `output` is there; whoever fails here has no tests to run. */
async function compile(output: string, ...args: string[]): Promise<void> {
  if (existsSync(output)) return;
  const part = `${output}.${process.pid}`; // another run may want the same
  const { ok, output: said } = await run(['g++', ...FLAGS, ...args, '-o', part]);
  if (!ok) throw new Error(said);
  renameSync(part, output);
}

const objectOf = (source: string, sanitizer: Sanitizer): string => {
  const hash = contentHash([source, ...headers], ...FLAGS, ...SANITIZERS[sanitizer]);
  return join(BUILD, `${basename(source, '.cc')}-${hash}.o`);
};

interface Build {
  sanitizer: Sanitizer;
  source: string;
}

const forEach = (sources: readonly string[]): Build[] =>
  (Object.keys(SANITIZERS) as Sanitizer[]).flatMap((sanitizer) =>
    sources.map((source) => ({ sanitizer, source })),
  );

/** The executable of one test: its object and the core's. */
async function link({ sanitizer, source }: Build): Promise<string> {
  const objects = [source, ...coreSources].map((each) => objectOf(each, sanitizer));
  const name = `${sanitizer}-${basename(source, '.cc')}-${contentHash([], ...objects)}`;
  const executable = join(BUILD, name);
  await compile(executable, ...SANITIZERS[sanitizer], ...objects);
  return executable;
}

const counts = { passed: 0, failed: 0, skipped: 0 };

async function runTest(build: Build): Promise<void> {
  const name = `${build.sanitizer} ${basename(build.source, '_test.cc')}`;
  const { ok, output } = await run([await link(build)], RUN_TIME, TIMEOUT_MS);
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

mkdirSync(BUILD, { recursive: true });
await inParallel(forEach([...coreSources, ...tests]), async ({ sanitizer, source }) => {
  await compile(objectOf(source, sanitizer), ...SANITIZERS[sanitizer], '-c', source);
});
await inParallel(forEach(tests), runTest);
await checkModel();
report('native', counts);
