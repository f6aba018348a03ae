/** Adds programs to an initramfs: Linux unpacks any number of archives that follow one another. */
import { readFileSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { gzipSync } from 'node:zlib';
import { contentKey } from './cache.ts';
import { cpio, PROGRAM } from './cpio.ts';

/**
 * @param programs paths of statically linked programs, by name in the guest's /bin.
 * @returns the path of an initramfs that has them too; the same one if there are none.
 */
export function withPrograms(
  initramfs: string,
  programs: Readonly<Record<string, string>>,
): string {
  const entries = Object.entries(programs).map(([name, path]) => ({
    path: `bin/${name}`,
    mode: PROGRAM,
    content: readFileSync(path),
  }));
  if (entries.length === 0) return initramfs;
  const archive = gzipSync(cpio(entries));
  const key = contentKey(initramfs, archive.toString('base64'));
  const path = join(tmpdir(), `initramfs-${key}.cpio.gz`);
  writeFileSync(path, Buffer.concat([readFileSync(initramfs), archive]));
  return path;
}
