/** Packs busybox, modules and scripts into an initramfs. */
import { mkdir, readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { gzipSync } from 'node:zlib';
import { cached, contentKey } from './cache.ts';
import { progress, run } from './command.ts';
import {
  CHARACTER_DEVICE,
  type CpioEntry,
  cpio,
  DIRECTORY,
  FILE,
  PROGRAM,
  SYMLINK,
} from './cpio.ts';
import { findPackage, unpack } from './debian.ts';
import type { Kernel } from './kernel.ts';
import { inLoadOrder, modulesDep, readModules } from './modules.ts';

export interface Contents {
  kernel: Pick<Kernel, 'release' | 'moduleTree' | 'key'>;
  /** The script that runs as the first process. */
  init: string;
  /** Modules for it to load: `modprobe -a $(cat /etc/modules)`. */
  modules: readonly string[];
  /** Further files by path, without leading slash; in directories of `DIRECTORIES` only. */
  files?: Record<string, string>;
}

const DIRECTORIES = ['bin', 'dev', 'etc', 'lib', 'lib/modules', 'mnt', 'opt', 'proc', 'root'];
const MORE_DIRECTORIES = ['run', 'sbin', 'sys', 'tmp', 'usr', 'usr/bin', 'var'];

/** Changed by hand when the same contents are packed in another way. */
const LAYOUT = '2';

/** @returns the path of the compressed archive, in the cache. */
export async function initramfs(name: string, contents: Contents): Promise<string> {
  const shell = await busybox();
  const { kernel, init, modules, files = {} } = contents;
  const key = contentKey(LAYOUT, kernel.key, shell.key, init, modules.join(), json(files));
  const entry = await cached(`initramfs-${name}`, key, async (draft) => {
    progress(`Packing the initramfs of the ${name}`);
    const entries = [...directories(contents), ...shell.entries, ...(await drivers(contents))];
    entries.push({ path: 'init', mode: PROGRAM, content: init });
    entries.push({ path: 'etc/modules', mode: FILE, content: `${modules.join('\n')}\n` });
    for (const [path, content] of Object.entries(files))
      entries.push({ path, mode: PROGRAM, content });
    await writeFile(join(draft, 'initramfs.cpio.gz'), gzipSync(cpio(entries), { level: 9 }));
  });
  return join(entry, 'initramfs.cpio.gz');
}

const json = (value: object) => JSON.stringify(value);

function directories({ kernel }: Contents): CpioEntry[] {
  const paths = [...DIRECTORIES, ...MORE_DIRECTORIES, `lib/modules/${kernel.release}`];
  const console = { path: 'dev/console', mode: CHARACTER_DEVICE, device: { major: 5, minor: 1 } };
  return [...paths.map((path) => ({ path, mode: DIRECTORY })), console];
}

/** The modules and what they depend on, all in one directory, as no guest needs to tell apart. */
async function drivers({ kernel, modules }: Contents): Promise<CpioEntry[]> {
  const ordered = inLoadOrder(await readModules(kernel.moduleTree), modules);
  const flat = ordered.map((one) => ({ ...one, path: `${one.name}.ko` }));
  const directory = `lib/modules/${kernel.release}`;
  const images = ordered.map(async (one) => ({
    path: `${directory}/${one.name}.ko`,
    mode: FILE,
    content: await readFile(join(kernel.moduleTree, one.path)),
  }));
  const dep = { path: `${directory}/modules.dep`, mode: FILE, content: modulesDep(flat) };
  return [...(await Promise.all(images)), dep];
}

interface Busybox {
  entries: CpioEntry[];
  key: string;
}

/** The program itself, and a link for each of the commands in it. */
async function busybox(): Promise<Busybox> {
  const source = await findPackage('busybox-static');
  const key = contentKey(source.version);
  const entry = await cached('busybox', key, async (draft) => {
    progress(`Downloading ${source.name} ${source.version}`);
    const tree = join(draft, 'package');
    await mkdir(tree);
    await unpack(source, tree);
  });
  const program = join(entry, 'package/bin/busybox');
  const remedy = 'remove the busybox entry of the cache and try again';
  const list = await run([program, '--list'], { step: 'List the commands of busybox', remedy });
  const applets = list.toString().trim().split('\n');
  const links = applets
    .filter((applet) => applet !== 'busybox')
    .map((applet) => ({ path: `bin/${applet}`, mode: SYMLINK, content: 'busybox' }));
  const content = await readFile(program);
  return { key, entries: [{ path: 'bin/busybox', mode: PROGRAM, content }, ...links] };
}
