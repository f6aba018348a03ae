/** The generated Go clients and their drivers, static binaries: see README.md. */
import { createHash } from 'node:crypto';
import { copyFile, mkdir, readdir, readFile, rm, writeFile } from 'node:fs/promises';
import { basename, join } from 'node:path';
import { cached, contentKey } from '../../guest-images/cache.ts';
import { progress, run, StepError } from '../../guest-images/command.ts';

interface GoClient {
  /** In `test/compat/fixtures`. */
  document: string;
  /** Of the generator, from Maven Central. */
  version: string;
  sha256: string;
  /** Of the generator, beside the document and where to write. */
  options: readonly string[];
}

const CLIENTS = {
  'go-2020': {
    document: 'api-2020.yaml',
    version: '4.2.3',
    sha256: 'dcd70b7017f57c767f9752f7db526b3c351597bb0c661db6430ff73b6e0c4c8d',
    options: [],
  },
  'go-2026': {
    document: 'api-v53.yaml',
    version: '5.3.0',
    sha256: 'f29d9d715a0d67cf1457d918ae7ed33f02d7fb2730c018d246a8d4a93d5ba7e1',
    options: ['--additional-properties=enumClassPrefix=true'],
  },
} as const satisfies Record<string, GoClient>;

export type GoClientName = keyof typeof CLIENTS;

const GO_BUILD = [
  ...['env', 'CGO_ENABLED=0', 'GOFLAGS=-mod=readonly', 'GOTOOLCHAIN=local'],
  ...['go', 'build', '-trimpath', '-buildvcs=false', '-ldflags=-s -w'],
] as const;

/** Changed by hand when `build` makes something else out of the same files. */
const LAYOUT = '2';

const folder = (name: string) => join(import.meta.dirname, name);
const documentPath = (client: GoClient) =>
  join(import.meta.dirname, '../compat/fixtures', client.document);

/** @returns the path of the driver; made if it is not in the cache. */
export async function goClient(name: GoClientName): Promise<string> {
  const client = CLIENTS[name];
  const sources = [...(await filesOf(name)), ...(await filesOf('go-steps'))];
  const texts = await Promise.all([documentPath(client), ...sources].map((file) => readFile(file)));
  const key = contentKey(LAYOUT, JSON.stringify(client), ...texts);
  return join(await cached(name, key, (draft) => build(name, draft)), name);
}

async function filesOf(name: string): Promise<string[]> {
  return (await readdir(folder(name))).sort().map((file) => join(folder(name), file));
}

async function build(name: GoClientName, draft: string): Promise<void> {
  const work = join(draft, 'work');
  await mkdir(join(work, 'steps'), { recursive: true });
  for (const file of await filesOf(name)) await copyFile(file, join(work, basename(file)));
  for (const file of await filesOf('go-steps'))
    await copyFile(file, join(work, 'steps', basename(file)));
  await generate(name, work);
  progress(`Building the client ${name} and its driver`);
  await run([...GO_BUILD, '-o', `../${name}`, '.'], {
    step: `Build the client ${name}`,
    remedy: 'install the package golang-go, and check that the proxy for Go modules can be reached',
    cwd: work,
  });
  await rm(work, { recursive: true });
}

/** Writes the package `client` below `work`. */
async function generate(name: GoClientName, work: string): Promise<void> {
  progress(`Generating the client ${name}`);
  const client = CLIENTS[name];
  const generator = await fetchGenerator(client, work);
  const document = await readFile(documentPath(client), 'utf8');
  await writeFile(join(work, 'api.yaml'), document.replace(/^( *- )null$/m, '$1"Null"'));
  const from = ['-g', 'go', '-i', 'api.yaml', '-o', 'client', ...client.options];
  await run(['java', '-jar', generator, 'generate', ...from], {
    step: `Generate the client ${name}`,
    remedy: 'install the package default-jre-headless',
    cwd: work,
  });
  // A package of the driver's module then, whose versions hold.
  for (const file of ['go.mod', 'go.sum']) await rm(join(work, 'client', file));
}

async function fetchGenerator({ version, sha256 }: GoClient, directory: string): Promise<string> {
  const fetch = [
    ...['mvn', '--quiet', '--batch-mode'],
    'org.apache.maven.plugins:maven-dependency-plugin:3.6.1:copy',
    `-Dartifact=org.openapitools:openapi-generator-cli:${version}`,
    `-DoutputDirectory=${directory}`,
  ] as const;
  await run(['env', ...fetch], {
    step: 'Download the generator of Go clients',
    remedy: 'install the package maven, and check that Maven Central can be reached',
  });
  const path = join(directory, `openapi-generator-cli-${version}.jar`);
  const found = createHash('sha256')
    .update(await readFile(path))
    .digest('hex');
  if (found !== sha256)
    throw new StepError(
      'Check the generator of Go clients',
      `its SHA-256 is ${found}, not ${sha256}`,
      'remove it from the local Maven repository and try again',
    );
  return path;
}
