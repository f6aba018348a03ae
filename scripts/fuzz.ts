/**
 * Builds the fuzz targets of the core, `test/fuzz/*_fuzz.cc`, by clang with libFuzzer, ASan and
 * UBSan; replays the corpus of each, and then looks for new inputs.
 *
 *   npx tsx scripts/fuzz.ts [--seconds N] [--minimise] [target …]
 *
 * What is found stays in `build/fuzz`, and is where the next run goes on from; `--minimise` takes
 * into the corpus what covers more. An input that fails is printed with how to run it alone.
 */
import { mkdirSync, readdirSync } from 'node:fs';
import { basename, dirname, join } from 'node:path';
import { parseArgs } from 'node:util';
import { compile, link, type Toolchain } from './check/cpp-build.ts';
import { type Ending, inParallel, run } from './check/job.ts';
import { coreHeaders, sourcesOf } from './check/sources.ts';
import { report } from './counts.ts';

const FUZZ = 'test/fuzz';
const BUILD = 'build/fuzz';
const SECONDS_DEFAULT = '30';
/** What no input of ours comes near: slower or larger than this is a hang or a leak. */
const LIMITS = ['-timeout=10', '-rss_limit_mb=1024', '-max_len=4096', '-verbosity=1'];
const MS_FOR_THE_REST = 60_000;

const files = readdirSync(FUZZ);
const targets = files
  .filter((name) => name.endsWith('_fuzz.cc'))
  .map((name) => basename(name, '_fuzz.cc'));
const tools: Toolchain = {
  directory: BUILD,
  compiler: 'clang++',
  flags: [
    ...['-std=c++20', '-O1', '-g', '-Wall', '-Wextra', '-Werror'],
    ...['-fsanitize=fuzzer-no-link,address,undefined', '-fno-sanitize-recover=all'],
  ],
  headers: [
    ...coreHeaders,
    ...files.filter((name) => name.endsWith('.h')).map((name) => join(FUZZ, name)),
  ],
};

const { values, positionals } = parseArgs({
  options: {
    seconds: { type: 'string', default: SECONDS_DEFAULT },
    minimise: { type: 'boolean', default: false },
  },
  allowPositionals: true,
});
const seconds = Number(values.seconds);
const wanted = positionals.length > 0 ? positionals : targets;
const unknown = wanted.filter((name) => !targets.includes(name));
if (unknown.length > 0 || !Number.isInteger(seconds) || seconds < 0) {
  console.error(`Usage: fuzz.ts [--seconds N] [--minimise] [${targets.join(' | ')} …]`);
  process.exit(2);
}

const sourceOf = (target: string): string => join(FUZZ, `${target}_fuzz.cc`);
const corpusOf = (target: string): string => join(FUZZ, 'corpus', target);
const foundOf = (target: string): string => join(BUILD, 'found', target);

const counts = { passed: 0, failed: 0, skipped: 0 };

function tell(what: string, { ok, output }: Ending): void {
  const runs = /Done (\d+) runs|#(\d+)\s+DONE/.exec(output);
  console.log(`${what}: ${ok ? 'ok' : 'failed'}, ${runs?.[1] ?? runs?.[2] ?? 'no'} runs`);
  if (!ok) console.log(output);
  counts[ok ? 'passed' : 'failed']++;
}

async function fuzz(target: string): Promise<void> {
  const sources = sourcesOf(sourceOf(target));
  const executable = await link(tools, target, sources, '-fsanitize=fuzzer', '-lz');
  const [corpus, found] = [corpusOf(target), foundOf(target)];
  for (const directory of [corpus, found]) mkdirSync(directory, { recursive: true });
  const start = (...args: string[]): Promise<Ending> => {
    const argv = [executable, ...LIMITS, `-artifact_prefix=${dirname(found)}/${target}-`, ...args];
    return run(argv, {}, seconds * 1000 + MS_FOR_THE_REST);
  };
  tell(`${target}: replay`, await start('-runs=0', corpus));
  if (seconds > 0)
    tell(`${target}: search`, await start(`-max_total_time=${seconds}`, found, corpus));
  if (values.minimise)
    tell(`${target}: minimise`, await start('-set_cover_merge=1', corpus, found));
}

const objects = new Set(wanted.flatMap((target) => sourcesOf(sourceOf(target))));
await inParallel([...objects], (source) => compile(tools, source));
await inParallel(wanted, fuzz);
report('fuzz', counts);
