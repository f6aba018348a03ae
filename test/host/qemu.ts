/** The QEMU that emulates the KVM host: a newer one than Debian 12's, kept in the cache. */
import { readdir } from 'node:fs/promises';
import { join } from 'node:path';
import { cached, contentKey } from '../../guest-images/cache.ts';
import { progress, run, StepError } from '../../guest-images/command.ts';
import { archive } from '../../guest-images/debian.ts';

/** How to start QEMU: the program with the arguments that must come first. */
export interface Qemu {
  argv: readonly [string, ...string[]];
  /** As it names itself, for the log. */
  version: string;
}

/**
 * Debian 12's QEMU 7.2 works too, but now and then it stops dead: both emulated CPUs halted, no
 * timer firing. Newer ones were not seen to.
 */
const SUITE = 'testing';
/** The same recipe under the name that debootstrap always has had. */
const RECIPE = '/usr/share/debootstrap/scripts/sid';
const INCLUDE = 'qemu-system-x86';

/** The best QEMU to be had; says so if it is not the one wanted. */
export async function emulator(): Promise<Qemu> {
  try {
    return await newQemu();
  } catch (error) {
    if (!(error instanceof StepError)) throw error;
    progress(`Falling back to the QEMU of this machine, which is less reliable. ${error.message}`);
    return installedQemu();
  }
}

async function newQemu(): Promise<Qemu> {
  const { site } = await archive();
  const key = contentKey(site, SUITE, INCLUDE);
  const tree = await cached('qemu', key, async (draft) => {
    progress(`Installing the QEMU of Debian ${SUITE} into the cache (about a minute)`);
    await debootstrap({ suite: SUITE, include: INCLUDE, recipe: RECIPE }, draft, site);
  });
  const libraries = join(tree, 'usr/lib/x86_64-linux-gnu');
  return withVersion([
    join(tree, 'lib64/ld-linux-x86-64.so.2'),
    '--library-path',
    libraries,
    join(tree, 'usr/bin/qemu-system-x86_64'),
    ...['-L', join(tree, 'usr/share/qemu'), '-L', join(tree, 'usr/share/seabios')],
  ]);
}

async function installedQemu(): Promise<Qemu> {
  return withVersion(['qemu-system-x86_64']);
}

async function withVersion(argv: [string, ...string[]]): Promise<Qemu> {
  const text = await run([...argv, '--version'], {
    step: 'Start QEMU',
    remedy: 'install the package qemu-system-x86, or remove the qemu entry of the cache',
  });
  return { argv, version: /version ([^\s]+)/.exec(text.toString())?.[1] ?? 'unknown' };
}

export interface Bootstrap {
  suite: string;
  /** Packages, with commas between. */
  include: string;
  recipe?: string;
}

/** Installs a Debian system into `directory`. */
export async function debootstrap(
  { suite, include, recipe }: Bootstrap,
  directory: string,
  site: string,
): Promise<void> {
  const step = `Install Debian ${suite} into ${directory}`;
  if ((await readdir(directory)).length > 0) throw new Error(`${directory} is not empty`);
  const options = ['--variant=minbase', `--include=${include}`];
  await run(
    ['debootstrap', ...options, suite, directory, site, ...(recipe === undefined ? [] : [recipe])],
    { step, remedy: 'install the package debootstrap, run as root, check access to the mirror' },
  );
}
