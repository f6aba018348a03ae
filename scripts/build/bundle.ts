/** `dist/vmm.cjs`, its `loader.cjs`, and `remote.cjs` of ch-remote: all JavaScript that runs. */
import { createHash } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { STATUS_CODES } from 'node:http';
import { join, resolve } from 'node:path';
import { type BuildOptions, build, type Metafile, type Plugin } from 'esbuild';
import { generateSchemaTables } from './schema-tables.ts';

/** Of our routes: for each the router compiles functions, whether a route has it or not. */
const METHODS = ['GET', 'PUT'];

/**
 * What packages import and we never let them use, with what they want of it as they load. Every one
 * costs milliseconds and megabytes at each start.
 */
const ABSENT: Record<string, string> = {
  'node:http': `module.exports = ${JSON.stringify({ METHODS, STATUS_CODES })}`,
  './lib/http-methods': `module.exports = ${JSON.stringify(METHODS)}`,
  'node:https': '',
  'node:http2': '',
  'node:dns': '',
  // Its 20 modules wait for a reply that is a stream, which none of ours is.
  'node:stream': "module.exports = { finished: (...a) => require('node:stream').finished(...a) }",
  'node:perf_hooks': 'module.exports = { performance: Date }', // for durations that nobody reads
  '@fastify/ajv-compiler': '',
  '@fastify/fast-json-stringify-compiler': '',
  '@fastify/proxy-addr': '',
  'light-my-request': '',
  semver: '', // for plugins, which we have none of
  'safe-regex2': 'module.exports = () => true', // no route of ours comes from outside
  './error-serializer': 'module.exports = JSON.stringify',
};

/** Modules of node that are loaded with their first use, by whomever; asserting is no use yet. */
const LATE: Record<string, string> = {
  'node:crypto': '{}',
  'node:os': '{}',
  'node:assert': "(ok, message) => { if (!ok) require('node:assert')(ok, message); }",
};

/** What schemas are built with: where a module still makes one as it loads, nobody reads it. */
const TYPEBOX = 'module.exports = { Type: new Proxy({}, { get: () => () => ({}) }) }';

/** No part of these may get into the bundle, by whatever way. */
const FORBIDDEN = ['ajv', 'fast-json-stringify', '@sinclair/typebox', 'light-my-request'];

const absent: Plugin = {
  name: 'absent',
  setup({ onResolve, onLoad }) {
    onResolve({ filter: /^(node:|@?[a-z]|\.\/(error-|lib\/http-m))/ }, ({ path, importer }) =>
      Object.hasOwn(ABSENT, path) && importer.includes('node_modules')
        ? { path, namespace: 'absent' }
        : undefined,
    );
    onLoad({ filter: /.*/, namespace: 'absent' }, ({ path }) => ({ contents: ABSENT[path] ?? '' }));
  },
};

const late: Plugin = {
  name: 'late',
  setup({ onResolve, onLoad }) {
    onResolve({ filter: /^(node:)?[a-z]+$/ }, ({ path, namespace }) => {
      const full = path.replace(/^(node:)?/, 'node:');
      const isLate = Object.hasOwn(LATE, full) && namespace !== 'late';
      return isLate ? { path: full, namespace: 'late' } : undefined;
    });
    onLoad({ filter: /.*/, namespace: 'late' }, async ({ path }) => {
      const names = Object.keys((await import(path)).default);
      const getters = names.map((name) =>
        ['ok', 'strict'].includes(name) // other names of assert itself
          ? `${name}: { value: late }`
          : `${name}: { get: () => require('${path}').${name} }`,
      );
      const contents = `const late = module.exports = ${LATE[path]};
        Object.defineProperties(late, {${getters}});`;
      return { contents };
    });
  },
};

/** The schemas as literals: the product has no use for what they are built with. */
const schemaTables: Plugin = {
  name: 'schema-tables',
  setup({ onResolve, onLoad }) {
    onLoad({ filter: /\/src\/vmm\/schema-tables\.ts$/ }, async () => ({
      contents: await generateSchemaTables(),
      loader: 'ts',
    }));
    onResolve({ filter: /^@sinclair\/typebox$/ }, ({ path }) => ({ path, namespace: 'typebox' }));
    onLoad({ filter: /.*/, namespace: 'typebox' }, () => ({ contents: TYPEBOX }));
  },
};

const common = {
  bundle: true,
  platform: 'node',
  format: 'cjs',
  target: 'node20',
  charset: 'ascii', // the loader reads it as latin1
  supported: { 'dynamic-import': false }, // a script, which the bundle is, has none
  // Names stay, and some lines, for stack traces that say something.
  minifySyntax: true,
  minifyWhitespace: true,
  lineLimit: 120,
  legalComments: 'none',
  logLevel: 'warning',
} as const satisfies BuildOptions;

/** @returns what went into the bundle. Throws if something did that must not. */
export async function bundle(root: string, dist: string): Promise<Metafile> {
  const { metafile } = await build({
    ...common,
    entryPoints: [join(root, 'src/main.ts')],
    outfile: join(dist, 'vmm.cjs'),
    absWorkingDir: resolve(root),
    metafile: true,
    // A function, for the loader to call: V8 keeps a code cache of scripts, not of modules.
    banner: { js: '(function (require, __filename, __addon) {' },
    footer: { js: '})' },
    define: { 'import.meta.url': '__filename' },
    plugins: [absent, late, schemaTables],
  });
  const unwanted = Object.keys(metafile.inputs).filter((path) =>
    FORBIDDEN.some((name) => path.startsWith(`node_modules/${name}/`)),
  );
  if (unwanted.length > 0) throw new Error(`These got into the bundle: ${unwanted.join(', ')}`);

  const hash = createHash('sha256')
    .update(readFileSync(join(dist, 'vmm.cjs')))
    .digest('hex');
  await build({
    ...common,
    entryPoints: [join(root, 'src/loader.ts')],
    outfile: join(dist, 'loader.cjs'),
    define: { __BUNDLE_HASH__: JSON.stringify(hash.slice(0, 16)) },
  });
  await bundleRemote(root, dist);
  return metafile;
}

/** So small that compiling it takes less than reading a code cache. The addon it rarely needs. */
async function bundleRemote(root: string, dist: string): Promise<void> {
  const addon = "process.dlopen(module, __dirname + '/cloud_hypervisor.node'), module.exports";
  await build({
    ...common,
    entryPoints: [join(root, 'src/api/remote.ts')],
    outfile: join(dist, 'remote.cjs'),
    banner: { js: `const __addon = () => (${addon});` },
    define: { 'import.meta.url': '__filename' },
    plugins: [schemaTables],
  });
}
