/** Debian's packages, by way of the machine's own apt: its mirror, its keys, its versions. */
import { readdir } from 'node:fs/promises';
import { join } from 'node:path';
import { run, StepError } from './command.ts';

const UPDATE = 'run `apt-get update` on a Debian machine with access to its mirror';

export interface Archive {
  /** Base address of the mirror. */
  site: string;
  /** Debian's name for the release of this machine, as in `bookworm`. */
  codename: string;
}

let updated: Promise<unknown> | undefined;

/** Tries `ask`, and once more with fresh package lists: new machines often come without any. */
async function withLists<T>(ask: () => Promise<T>): Promise<T> {
  try {
    return await ask();
  } catch {
    updated ??= run(['apt-get', 'update'], { step: 'Fetch the package lists', remedy: UPDATE });
    await updated;
    return ask();
  }
}

/** The mirror that this machine takes Debian from. */
export const archive = (): Promise<Archive> => withLists(readSources);

async function readSources(): Promise<Archive> {
  const step = 'Find the Debian mirror in the sources of apt';
  const format = '$(LABEL)|$(CODENAME)|$(SITE)';
  const lines = await run(['apt-get', 'indextargets', '--format', format], {
    step,
    remedy: UPDATE,
  });
  for (const line of lines.toString().split('\n')) {
    const [label, codename, site] = line.split('|');
    const main = label === 'Debian' && codename && !codename.includes('-');
    if (main && site) return { site, codename };
  }
  throw new StepError(step, 'no source is of Debian itself', UPDATE);
}

export interface Package {
  name: string;
  version: string;
  /** The `Depends` field, as it stands. */
  depends: string;
}

/** What was looked up: apt takes the better part of a second for each question. */
const known = new Map<string, Promise<Package>>();

/** What apt would install for `name`. */
export function findPackage(name: string): Promise<Package> {
  const found = known.get(name) ?? withLists(() => lookUp(name));
  known.set(name, found);
  return found;
}

async function lookUp(name: string): Promise<Package> {
  const step = `Look up the package ${name}`;
  const command = ['apt-cache', 'show', '--no-all-versions', name] as const;
  return parseStanza((await run(command, { step, remedy: UPDATE })).toString());
}

/** Reads the fields that matter of one stanza of `apt-cache show`. */
export function parseStanza(stanza: string): Package {
  const field = (key: string) => new RegExp(`^${key}: (.*)$`, 'm').exec(stanza)?.[1] ?? '';
  return { name: field('Package'), version: field('Version'), depends: field('Depends') };
}

/** Unpacks a package into `directory`, without installing anything on this machine. */
export async function unpack(one: Package, directory: string): Promise<void> {
  await run(
    ['apt-get', 'download', '-o', 'APT::Sandbox::User=root', `${one.name}=${one.version}`],
    { step: `Download ${one.name} ${one.version}`, remedy: UPDATE, cwd: directory },
  );
  const file = (await readdir(directory)).find((name) => name.endsWith('.deb')) ?? '';
  await run(['dpkg-deb', '-x', file, '.'], {
    step: `Unpack ${file}`,
    remedy: 'check the free space of the cache directory',
    cwd: directory,
  });
  await run(['rm', join(directory, file)], { step: `Remove ${file}`, remedy: 'try again' });
}
