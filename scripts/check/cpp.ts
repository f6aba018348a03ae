/** The checks of C++: format, the warnings of two compilers, clang-tidy. */
import { existsSync, mkdirSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { command, type Job, run } from './job.ts';
import { bindingSources, contentHash, coreHeaders, coreSources, filesNamed } from './sources.ts';

const STANDARD = '-std=c++20';
const WARNINGS = ['-Wall', '-Wextra', '-Wconversion', '-Werror'];

export const clangFormat = (...args: string[]): string[] => [
  'clang-format',
  ...args,
  ...filesNamed('cc', 'h', 'c'),
];

export const formatJobs = (): Job[] => [command(...clangFormat('--dry-run', '-Werror'))];

const syntax = (compiler: string, source: string, ...flags: string[]): Job =>
  command(compiler, STANDARD, '-fsyntax-only', ...WARNINGS, ...flags, source);

/** Where node's own headers are: beside node, or where node-gyp has put them. */
function nodeHeaders(): string {
  const home = process.env['HOME'] ?? '/';
  const places = [
    join(dirname(process.execPath), '../include/node'),
    join(home, '.cache/node-gyp', process.versions.node, 'include/node'),
  ];
  const found = places.find((place) => existsSync(join(place, 'node_api.h')));
  if (found === undefined) throw new Error('No headers of node: run npx node-gyp install');
  return found;
}

export const gccJobs = (): Job[] => [
  ...coreSources.map((source) => syntax('g++', source, '-Wshadow')),
  ...bindingSources.map((source) =>
    syntax(
      'g++',
      source,
      ...['-DNAPI_VERSION=9', '-isystem', nodeHeaders(), '-isystem', 'node_modules/node-addon-api'],
    ),
  ),
];

export const clangJobs = (): Job[] =>
  coreSources.map((source) => syntax('clang++', source, '-Wshadow', '-Wthread-safety'));

/** A file takes a minute at the most, but may have to wait for a CPU. */
const TIDY_TIMEOUT_MS = 1_200_000;

/** Takes seconds a file, so what it has passed is not looked at again until something changes. */
export function tidyJobs(): Job[] {
  const passed = 'build/clang-tidy';
  mkdirSync(passed, { recursive: true });
  return coreSources.map((source) => async () => {
    const mark = join(passed, contentHash([source, ...coreHeaders, '.clang-tidy']));
    if (existsSync(mark)) return '';
    const argv = ['clang-tidy', '--quiet', source, '--', STANDARD];
    const { ok, output } = await run(argv, {}, TIDY_TIMEOUT_MS);
    if (ok) writeFileSync(mark, source);
    return ok ? '' : output;
  });
}
