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
import type { Native } from './native.ts';

/** Set by the build. V8 knows a source by its length only, so the cache's name has to tell more. */
declare const __BUNDLE_HASH__: string;

/**
 * By then what a start needs has been compiled. Before main.ts changes flags of V8, which would
 * make the cache one for other flags than a start has.
 */
const REBUILD_AFTER_MS = 500;

const BUNDLE = join(__dirname, 'vmm.cjs');

function compile(cachedData?: Buffer): Script {
  // The bundle, a function, is plain ASCII: as latin1 it needs no decoding.
  return new Script(readFileSync(BUNDLE, 'latin1'), {
    filename: BUNDLE,
    ...(cachedData && { cachedData }),
  });
}

/**
 * Undefined without a home; the launcher takes it away where we have more rights than its owner.
 */
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

/**
 * There is a cache of the user's only if node has refused ours before. One is tried, not both:
 * after the first V8 has compiled the source, and takes that for the second.
 */
function load(): Script {
  const path = userCachePath();
  const own = path === undefined ? undefined : attempt(() => readTrusted(path));
  const script = compile(own ?? attempt(() => readFileSync(join(__dirname, 'vmm.cache'))));
  if (script.cachedDataRejected !== false && path !== undefined) {
    const rebuild = () => attempt(() => writeAtomically(path, script.createCachedData()));
    setTimeout(rebuild, REBUILD_AFTER_MS).unref();
  }
  return script;
}

let loaded: Native | undefined;

/** Unlike require, looks for no package.json on the way there, which takes as long again. */
function addon(): Native {
  if (loaded) return loaded;
  const module: { exports: unknown } = { exports: {} };
  process.dlopen(module, join(__dirname, 'cloud_hypervisor.node'));
  loaded = module.exports as Native;
  return loaded;
}

type Bundle = (require: NodeJS.Require, filename: string, addon: () => Native) => void;

// First of all, so that KVM works while V8 reads: whoever starts us will want a VM, soon or now.
// Whatever is wrong with it, the boot will say.
attempt(() => addon().prepareVm());
const run = load().runInThisContext() as Bundle;
run(createRequire(BUNDLE), BUNDLE, addon);
