/**
 * Makes `dist/`, the product: the launchers, the bundles with their loader and code cache, the addon.
 * A running VMM of the old one is not disturbed: the directory is replaced as a whole.
 */
import { mkdirSync, renameSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { buildAddon } from './build/addon.ts';
import { bundle } from './build/bundle.ts';
import { writeCodeCache } from './build/code-cache.ts';
import { buildLauncher } from './build/launcher.ts';

const root = join(import.meta.dirname, '..');
const fresh = join(root, 'build/dist');
const dist = join(root, 'dist');

async function step(what: string, work: () => unknown): Promise<void> {
  const start = performance.now();
  console.log(`Building ${what}`);
  await work();
  console.log(`  ${((performance.now() - start) / 1000).toFixed(1)} s`);
}

rmSync(fresh, { recursive: true, force: true });
mkdirSync(fresh, { recursive: true });
await step('the addon (C++; skipped while unchanged)', () => buildAddon(root, fresh));
await step('the bundle', () => bundle(root, fresh));
await step('the launchers', async () => {
  const { helpText, VERSION_TEXT } = await import('../src/api/help.ts');
  const { remoteHelpText, REMOTE_VERSION_TEXT } = await import('../src/api/remote-help.ts');
  const common = { root, dist: fresh };
  buildLauncher({ ...common, help: helpText(), version: VERSION_TEXT });
  const remote = { help: remoteHelpText(), version: REMOTE_VERSION_TEXT };
  buildLauncher({ ...common, name: 'ch-remote', ...remote });
});
await step('the code cache', () => writeCodeCache(fresh));
rmSync(dist, { recursive: true, force: true });
renameSync(fresh, dist);
