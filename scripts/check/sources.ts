/** Which files the checks look at, and what tells one content from another. */
import { execFileSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { dirname, join } from 'node:path';

const listed = (...patterns: string[]): string[] =>
  execFileSync('git', ['ls-files', '-co', '--exclude-standard', '--', ...patterns], {
    encoding: 'utf8',
  })
    .split('\n')
    .filter((path) => path !== '' && existsSync(path));

/** Every file of the project whose name ends so, tracked or new. */
export const filesNamed = (...extensions: string[]): string[] =>
  listed(...extensions.map((extension) => `*.${extension}`));

const inDirectory = (name: string): string[] =>
  readdirSync(`native/${name}`).map((file) => `native/${name}/${file}`);

/** The core: all of the addon that does not know Node. */
const core = readdirSync('native')
  .filter((name) => name !== 'binding' && name !== 'launcher')
  .flatMap(inDirectory);
export const coreSources = core.filter((path) => path.endsWith('.cc'));
export const coreHeaders = core.filter((path) => path.endsWith('.h'));
export const bindingSources = inDirectory('binding').filter((path) => path.endsWith('.cc'));

/** A source and all that it needs: what it includes has its implementation beside it. */
export function sourcesOf(source: string): string[] {
  const seen = new Set<string>();
  const visit = (path: string) => {
    if (seen.has(path) || !existsSync(path)) return;
    seen.add(path);
    for (const [, included = ''] of readFileSync(path, 'utf8').matchAll(/^#include "(.+)"/gm))
      visit(join(dirname(path), included));
    if (path.endsWith('.h')) visit(path.replace(/\.h$/, '.cc'));
  };
  visit(source);
  return [...seen].filter((path) => path.endsWith('.cc'));
}

/** A name for the contents of files and whatever else matters. */
export function contentHash(files: readonly string[], ...rest: string[]): string {
  const hash = createHash('sha256').update(JSON.stringify(rest));
  for (const file of files) hash.update(`${file}\0`).update(readFileSync(file));
  return hash.digest('hex').slice(0, 16);
}
