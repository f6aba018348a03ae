/** The driver of openapi-fetch, type-checked against the API document: see README.md. */
import { cp, mkdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { build } from 'esbuild';
import openapiTypescript, { astToString } from 'openapi-typescript';
import { run } from '../../guest-images/command.ts';

const ROOT = join(import.meta.dirname, '../..');
const DOCUMENT = join(ROOT, 'test/compat/fixtures/api-v53.yaml');
/** As deep as the sources are, for the paths in their tsconfig.json. */
const BUILT = join(ROOT, 'test-results/clients/typescript');

/** @returns the path of the driver, for `node`; made in some seconds. */
export async function typescriptClient(): Promise<string> {
  await mkdir(BUILT, { recursive: true });
  await cp(join(import.meta.dirname, 'typescript'), BUILT, { recursive: true });
  const types = await openapiTypescript(new URL(`file://${DOCUMENT}`), { silent: true });
  await writeFile(join(BUILT, 'api.d.ts'), astToString(types));
  await run([join(ROOT, 'node_modules/.bin/tsc'), '-p', BUILT], {
    step: 'Check the types of the TypeScript client',
    remedy: 'mend test/clients/typescript/driver.ts',
  });
  const outfile = join(BUILT, 'driver.mjs');
  await build({
    entryPoints: [join(BUILT, 'driver.ts')],
    outfile,
    bundle: true,
    platform: 'node',
    format: 'esm',
    logLevel: 'error',
    // Packages of CommonJS in it call `require` for what Node has.
    banner: {
      js: "import { createRequire } from 'node:module'; const require = createRequire('/');",
    },
  });
  return outfile;
}
