/**
 * `dist/cloud_hypervisor.node`: the C++ core, built by node-gyp when something it is made of
 * changed.
 */
import { execFileSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { copyFileSync, existsSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';

/** Everything that the result depends on, in one hash. */
function inputsHash(root: string): string {
  const hash = createHash('sha256');
  const native = readdirSync(join(root, 'native'), { recursive: true, encoding: 'utf8' })
    .filter((path) => /\.(cc|h)$/.test(path) && !path.startsWith('launcher/'))
    .map((path) => join('native', path))
    .sort();
  const addonApi = 'node_modules/node-addon-api/package.json';
  for (const path of ['binding.gyp', addonApi, ...native])
    hash.update(`${path}\0`).update(readFileSync(join(root, path)));
  return hash
    .update(process.version)
    .update(process.env['CXX'] ?? '')
    .digest('hex');
}

/** Where this node's own headers are, so that nothing has to be downloaded. */
function headers(): string[] {
  const prefixes = [dirname(dirname(process.execPath)), '/usr', '/usr/local'];
  const found = prefixes.find((prefix) => {
    const file = join(prefix, 'include/node/node_version.h');
    return existsSync(file) && isOurVersion(readFileSync(file, 'utf8'));
  });
  return found ? [`--nodedir=${found}`] : [];
}

function isOurVersion(header: string): boolean {
  const part = (name: string) =>
    header.match(new RegExp(`#define NODE_${name}_VERSION (\\d+)`))?.[1];
  return `v${part('MAJOR')}.${part('MINOR')}.${part('PATCH')}` === process.version;
}

/** @returns false if it was up to date. */
export function buildAddon(root: string, dist: string): boolean {
  const built = join(root, 'build/Release/cloud_hypervisor.node');
  const stamp = join(root, 'build/addon.hash');
  const hash = inputsHash(root);
  const stale = !existsSync(built) || !existsSync(stamp) || readFileSync(stamp, 'utf8') !== hash;
  if (stale) {
    const gyp = join(root, 'node_modules/node-gyp/bin/node-gyp.js');
    const jobs = ['--jobs', 'max', '--loglevel', 'error'];
    const args = [gyp, 'configure', 'build', ...headers(), ...jobs];
    execFileSync(process.execPath, args, { cwd: root, stdio: 'inherit' });
    writeFileSync(stamp, hash);
  }
  copyFileSync(built, join(dist, 'cloud_hypervisor.node'));
  return stale;
}
