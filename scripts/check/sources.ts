/** Which files the checks look at, and what tells one content from another. */
import { execFileSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { existsSync, readdirSync, readFileSync } from 'node:fs';

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

/** A name for the contents of files and whatever else matters. */
export function contentHash(files: readonly string[], ...rest: string[]): string {
  const hash = createHash('sha256').update(JSON.stringify(rest));
  for (const file of files) hash.update(`${file}\0`).update(readFileSync(file));
  return hash.digest('hex').slice(0, 16);
}
