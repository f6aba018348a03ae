/**
 * `loader.cjs`, which the launcher has node run: evaluates the bundle beside it, `vmm.cjs`, with
 * V8's code cache, so that a start does not parse and compile what the build already has.
 *
 * V8 refuses the cache of another build of node. Then one is kept in the user's cache directory;
 * what goes wrong with that costs time only, and is not mentioned.
 */
import {
  closeSync,
  constants,
  fstatSync,
  mkdirSync,
  openSync,
  readFileSync,
  renameSync,
  writeFileSync,
} from 'node:fs';
import { createRequire } from 'node:module';
import { dirname, join } from 'node:path';
import { Script } from 'node:vm';

/** Set by the build. V8 knows a source by its length only, so the cache's name has to tell more. */
declare const __BUNDLE_HASH__: string;

/** By then all that a start needs has been compiled, and nobody is waiting. */
const REBUILD_AFTER_MS = 2000;

const BUNDLE = join(__dirname, 'vmm.cjs');

function compile(cachedData?: Buffer): Script {
  // The bundle, a function, is plain ASCII: as latin1 it needs no decoding.
  return new Script(readFileSync(BUNDLE, 'latin1'), {
    filename: BUNDLE,
    ...(cachedData && { cachedData }),
  });
}

/** Undefined without a home; the launcher takes it away where we have more rights than its owner. */
function userCachePath(): string | undefined {
  const { HOME, XDG_CACHE_HOME } = process.env;
  const root = XDG_CACHE_HOME || (HOME && join(HOME, '.cache'));
  const name = `${__BUNDLE_HASH__}-${process.version}-${process.arch}.cache`;
  return root ? join(root, 'cloud-hypervisor', name) : undefined;
}

/** What lies there will be run: it has to be ours, and nobody else's to write. */
function readTrusted(path: string): Buffer {
  const fd = openSync(path, constants.O_RDONLY | constants.O_NOFOLLOW);
  try {
    const { uid, mode } = fstatSync(fd);
    if (uid !== process.geteuid?.() || mode & 0o022) throw new Error(`${path} is not trusted`);
    return readFileSync(fd);
  } finally {
    closeSync(fd);
  }
}

function attempt<T>(action: () => T): T | undefined {
  try {
    return action();
  } catch {
    return undefined;
  }
}

/** Whole or not at all: others may be starting while we write. */
function writeAtomically(path: string, bytes: Buffer): void {
  mkdirSync(dirname(path), { recursive: true, mode: 0o700 });
  const unfinished = `${path}.${process.pid}`;
  writeFileSync(unfinished, bytes, { mode: 0o600, flag: 'wx' });
  renameSync(unfinished, path);
}

function load(): Script {
  const shipped = compile(attempt(() => readFileSync(join(__dirname, 'vmm.cache'))));
  if (shipped.cachedDataRejected === false) return shipped;
  const path = userCachePath();
  if (path === undefined) return shipped;

  const script = compile(attempt(() => readTrusted(path)));
  if (script.cachedDataRejected !== false)
    setTimeout(
      () => attempt(() => writeAtomically(path, script.createCachedData())),
      REBUILD_AFTER_MS,
    ).unref();
  return script;
}

const run = load().runInThisContext() as (require: NodeJS.Require, filename: string) => void;
run(createRequire(BUNDLE), BUNDLE);
