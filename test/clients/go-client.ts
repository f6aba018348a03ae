/** The Go client of March 2020 and its driver, a static binary: see go-2020/README.md. */
import { createHash } from 'node:crypto';
import { copyFile, mkdir, readFile, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { cached, contentKey } from '../../guest-images/cache.ts';
import { progress, run, StepError } from '../../guest-images/command.ts';

const SOURCES = ['main.go', 'go.mod', 'go.sum'] as const;
const source = (name: string) => join(import.meta.dirname, 'go-2020', name);
const DOCUMENT = join(import.meta.dirname, '../compat/fixtures/api-2020.yaml');

const GENERATOR = 'openapi-generator-cli-4.2.3.jar';
const GENERATOR_SHA256 = 'dcd70b7017f57c767f9752f7db526b3c351597bb0c661db6430ff73b6e0c4c8d';
const FETCH = [
  ...['mvn', '--quiet', '--batch-mode'],
  'org.apache.maven.plugins:maven-dependency-plugin:3.6.1:copy',
  '-Dartifact=org.openapitools:openapi-generator-cli:4.2.3',
] as const;

const GO_BUILD = [
  ...['env', 'CGO_ENABLED=0', 'GOFLAGS=-mod=readonly', 'GOTOOLCHAIN=local'],
  ...['go', 'build', '-trimpath', '-buildvcs=false', '-ldflags=-s -w'],
] as const;

/** Changed by hand when `build` makes something else out of the same files. */
const LAYOUT = '1';

/** @returns the path of the driver; made if it is not in the cache. */
export async function goClient(): Promise<string> {
  const texts = await Promise.all([DOCUMENT, ...SOURCES.map(source)].map((file) => readFile(file)));
  const key = contentKey(LAYOUT, GENERATOR_SHA256, ...texts);
  return join(await cached('go-client', key, build), 'go-2020');
}

async function build(draft: string): Promise<void> {
  const work = join(draft, 'work');
  await mkdir(work);
  for (const name of SOURCES) await copyFile(source(name), join(work, name));
  await generate(work);
  progress('Building the Go client of 2020 and its driver');
  await run([...GO_BUILD, '-o', '../go-2020', '.'], {
    step: 'Build the Go client',
    remedy: 'install the package golang-go, and check that the proxy for Go modules can be reached',
    cwd: work,
  });
  await rm(work, { recursive: true });
}

/** Writes the package `client` below `work`. */
async function generate(work: string): Promise<void> {
  progress('Generating the Go client of 2020');
  const generator = await fetchGenerator(work);
  const document = await readFile(DOCUMENT, 'utf8');
  await writeFile(join(work, 'api.yaml'), document.replace(/^( *- )null$/m, '$1"Null"'));
  await run(['java', '-jar', generator, 'generate', '-g', 'go', '-i', 'api.yaml', '-o', 'client'], {
    step: 'Generate the Go client',
    remedy: 'install the package default-jre-headless',
    cwd: work,
  });
  // A package of the driver's module then, whose versions hold.
  for (const file of ['go.mod', 'go.sum']) await rm(join(work, 'client', file));
}

async function fetchGenerator(directory: string): Promise<string> {
  await run([...FETCH, `-DoutputDirectory=${directory}`], {
    step: 'Download the generator of the Go client',
    remedy: 'install the package maven, and check that Maven Central can be reached',
  });
  const path = join(directory, GENERATOR);
  const sha256 = createHash('sha256')
    .update(await readFile(path))
    .digest('hex');
  if (sha256 !== GENERATOR_SHA256)
    throw new StepError(
      'Check the generator of the Go client',
      `its SHA-256 is ${sha256}, not ${GENERATOR_SHA256}`,
      'remove it from the local Maven repository and try again',
    );
  return path;
}
