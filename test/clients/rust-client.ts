/** The driver of the Rust crate in two versions: see README.md. */
import { cp, readFile, rename, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { cached, contentKey } from '../../guest-images/cache.ts';
import { progress, run } from '../../guest-images/command.ts';

const FOLDER = join(import.meta.dirname, 'rust');
const SOURCES = ['Cargo.toml', 'Cargo.lock', 'src/main.rs'] as const;

/** @returns the path of the driver; made if it is not in the cache. */
export async function rustClient(): Promise<string> {
  const texts = await Promise.all(SOURCES.map((name) => readFile(join(FOLDER, name))));
  return join(await cached('rust-clients', contentKey(...texts), build), 'rust-clients');
}

async function build(draft: string): Promise<void> {
  progress('Building the Rust clients and their driver');
  const work = join(draft, 'work');
  await cp(FOLDER, work, { recursive: true });
  await run(['cargo', 'build', '--locked', '--quiet'], {
    step: 'Build the Rust clients',
    remedy: 'install cargo 1.86 or newer, and check that crates.io can be reached',
    cwd: work,
  });
  await rename(join(work, 'target/debug/rust-clients'), join(draft, 'rust-clients'));
  await rm(work, { recursive: true });
}
