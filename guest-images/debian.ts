/** Debian's packages, by way of the machine's own apt: its mirror, its keys, its versions. */
import { mkdir, readdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { cached, contentKey } from './cache.ts';
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

/** Another release than this machine's, from the same mirror. */
export interface Suite {
  name: string;
  /** Arguments by which apt looks there. */
  apt: readonly string[];
}

/** Of the file with Debian's keys, which each Debian has. */
const KEYRING = '/usr/share/keyrings/debian-archive-keyring.gpg';

/** The package lists of a release, in the cache: what is taken from there is kept, as they are. */
export async function openSuite(name: string): Promise<Suite> {
  const { site } = await archive();
  const directory = await cached('apt', contentKey(site, name), async (draft) => {
    await mkdir(join(draft, 'lists/partial'), { recursive: true });
    await writeFile(join(draft, 'sources'), `deb [signed-by=${KEYRING}] ${site} ${name} main\n`);
    const step = `Fetch the package lists of Debian ${name}`;
    await run(['apt-get', ...aptIn(draft), 'update'], { step, remedy: UPDATE });
  });
  return { name, apt: aptIn(directory) };
}

const aptIn = (directory: string): string[] => [
  `-oDir::Etc::sourcelist=${directory}/sources`,
  '-oDir::Etc::sourceparts=-',
  `-oDir::State::lists=${directory}/lists`,
  `-oDir::Cache=${directory}`,
  '-oAPT::Sandbox::User=root',
];

export interface Package {
  name: string;
  version: string;
  /** The `Depends` field, as it stands. */
  depends: string;
}

/** What was looked up: apt takes the better part of a second for each question. */
const known = new Map<string, Promise<Package>>();

/** What apt would install for `name`. */
export function findPackage(name: string, suite?: Suite): Promise<Package> {
  const key = `${name}/${suite?.name ?? ''}`;
  const found = known.get(key) ?? withLists(() => lookUp(name, suite));
  known.set(key, found);
  return found;
}

async function lookUp(name: string, suite?: Suite): Promise<Package> {
  const step = `Look up the package ${name}`;
  const options = [...(suite?.apt ?? []), 'show', '--no-all-versions'];
  const command = ['apt-cache', ...options, name] as const;
  return parseStanza((await run(command, { step, remedy: UPDATE })).toString());
}

/** Reads the fields that matter of one stanza of `apt-cache show`. */
export function parseStanza(stanza: string): Package {
  const field = (key: string) => new RegExp(`^${key}: (.*)$`, 'm').exec(stanza)?.[1] ?? '';
  return { name: field('Package'), version: field('Version'), depends: field('Depends') };
}

/** Unpacks a package into `directory`, without installing anything on this machine. */
export async function unpack(one: Package, directory: string, suite?: Suite): Promise<void> {
  const options = ['-oAPT::Sandbox::User=root', ...(suite?.apt ?? [])];
  await run(['apt-get', ...options, 'download', `${one.name}=${one.version}`], {
    step: `Download ${one.name} ${one.version}`,
    remedy: suite ? `remove the apt entries of the cache, and try again` : UPDATE,
    cwd: directory,
  });
  const file = (await readdir(directory)).find((name) => name.endsWith('.deb')) ?? '';
  await run(['dpkg-deb', '-x', file, '.'], {
    step: `Unpack ${file}`,
    remedy: 'check the free space of the cache directory',
    cwd: directory,
  });
  await run(['rm', join(directory, file)], { step: `Remove ${file}`, remedy: 'try again' });
}
