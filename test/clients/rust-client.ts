/** The driver of the Rust crate in two versions: see README.md. */
import { cp, readFile, rename, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { cached, contentKey } from '../../guest-images/cache.ts';
import { progress, run } from '../../guest-images/command.ts';

const FOLDER = join(import.meta.dirname, 'rust');
const SOURCES = ['Cargo.toml', 'Cargo.lock', 'src/main.rs'] as const;

/** Static: it runs on any host. Procedural macros of the build are not, hence a target. */
const TARGET = 'x86_64-unknown-linux-gnu';
const FLAGS = 'RUSTFLAGS=-C target-feature=+crt-static -C strip=symbols';

/** @returns the path of the driver; made if it is not in the cache. */
export async function rustClient(): Promise<string> {
  const texts = await Promise.all(SOURCES.map((name) => readFile(join(FOLDER, name))));
  return join(
    await cached('rust-clients', contentKey(TARGET, FLAGS, ...texts), build),
    'rust-clients',
  );
}

async function build(draft: string): Promise<void> {
  progress('Building the Rust clients and their driver');
  const work = join(draft, 'work');
  await cp(FOLDER, work, { recursive: true });
  await run(['env', FLAGS, 'cargo', 'build', '--locked', '--quiet', '--target', TARGET], {
    step: 'Build the Rust clients',
    remedy: 'install cargo 1.86 or newer, and check that crates.io can be reached',
    cwd: work,
  });
  await rename(join(work, 'target', TARGET, 'debug/rust-clients'), join(draft, 'rust-clients'));
  await rm(work, { recursive: true });
}
