/** Adds programs to an initramfs: Linux unpacks any number of archives that follow one another. */
import { spawnSync } from 'node:child_process';
import { existsSync, readFileSync, renameSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { gzipSync } from 'node:zlib';
import { contentKey } from './cache.ts';
import { cpio, DIRECTORY, PROGRAM } from './cpio.ts';

/**
 * @param programs paths of this machine's programs, by name in the guest's /bin. The libraries that
 *   they are linked with come along, at the paths that they have here.
 * @returns the path of an initramfs that has them too; the same one if there are none.
 */
export function withPrograms(
  initramfs: string,
  programs: Readonly<Record<string, string>>,
): string {
  const files = new Map(Object.entries(programs).map(([name, path]) => [`bin/${name}`, path]));
  if (files.size === 0) return initramfs;
  for (const library of librariesOf([...files.values()])) files.set(library.slice(1), library);
  const contents = [...files].map(([path, source]) => ({ path, content: readFileSync(source) }));
  const key = contentKey(initramfs, ...contents.flatMap(({ path, content }) => [path, content]));
  const result = join(tmpdir(), `initramfs-${key}.cpio.gz`);
  if (existsSync(result)) return result;
  const directories = new Set(contents.flatMap(({ path }) => parentsOf(path)));
  const archive = cpio([
    ...[...directories].map((path) => ({ path, mode: DIRECTORY })),
    ...contents.map((file) => ({ ...file, mode: PROGRAM })),
  ]);
  const draft = `${result}.${process.pid}`; // another run may make the same
  // The fastest level: the kernel unpacks it at every boot, and nothing is kept.
  writeFileSync(draft, Buffer.concat([readFileSync(initramfs), gzipSync(archive, { level: 1 })]));
  renameSync(draft, result);
  return result;
}

/** What the loader of this machine would load for `programs`, itself included. */
function librariesOf(programs: readonly string[]): Set<string> {
  // It fails for static programs, which have none.
  const { stdout } = spawnSync('ldd', programs, { encoding: 'utf8' });
  return new Set([...stdout.matchAll(/(?:=> |^\t)(\/\S+)/gm)].map(([, path = '']) => path));
}

/** The directories above `path`, the outermost first. */
function parentsOf(path: string): string[] {
  const parent = dirname(path);
  return parent === '.' ? [] : [...parentsOf(parent), parent];
}
