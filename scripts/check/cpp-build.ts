/**
 * Executables of C++ for tests. Objects and executables are named by the hash of what they are made
 * from, and so made once.
 */
import { existsSync, mkdirSync, renameSync } from 'node:fs';
import { basename, join } from 'node:path';
import { run } from './job.ts';
import { contentHash } from './sources.ts';

export interface Toolchain {
  /** Where all that is made is kept. */
  directory: string;
  compiler: string;
  flags: readonly string[];
  /** What any of the sources may include. */
  headers: readonly string[];
}

/** Runs the compiler unless `output` is there; whoever fails here has nothing to run. */
async function make(tools: Toolchain, output: string, ...args: string[]): Promise<void> {
  if (existsSync(output)) return;
  mkdirSync(tools.directory, { recursive: true });
  const part = `${output}.${process.pid}`; // another run may want the same
  const { ok, output: said } = await run([tools.compiler, ...tools.flags, ...args, '-o', part]);
  if (!ok) throw new Error(said);
  renameSync(part, output);
}

function objectOf(tools: Toolchain, source: string): string {
  const hash = contentHash([source, ...tools.headers], tools.compiler, ...tools.flags);
  return join(tools.directory, `${basename(source, '.cc')}-${hash}.o`);
}

export async function compile(tools: Toolchain, source: string): Promise<void> {
  await make(tools, objectOf(tools, source), '-c', source);
}

/** The executable of sources that are compiled. */
export async function link(
  tools: Toolchain,
  name: string,
  sources: readonly string[],
  ...flags: string[]
): Promise<string> {
  const objects = sources.map((source) => objectOf(tools, source));
  const executable = join(tools.directory, `${name}-${contentHash([], ...objects, ...flags)}`);
  await make(tools, executable, ...flags, ...objects);
  return executable;
}
