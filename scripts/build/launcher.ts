/** `dist/cloud-hypervisor`: the launcher, with what it says by itself compiled in. */
import { execFileSync } from 'node:child_process';
import { mkdirSync, readdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';

const NODES = [...new Set([process.execPath, '/usr/bin/node', '/usr/local/bin/node'])];

export interface LauncherOptions {
  root: string;
  dist: string;
  help: string;
  version: string;
  /** Where node may be, before PATH is looked at. */
  nodes?: readonly string[];
}

const literal = (text: string): string =>
  `"${text.replace(/["\\]/g, '\\$&').replaceAll('\n', '\\n"\n  "')}"`;

export function buildLauncher({ root, dist, help, version, nodes = NODES }: LauncherOptions): void {
  const generated = join(root, 'build', 'launcher');
  mkdirSync(generated, { recursive: true });
  writeFileSync(
    join(generated, 'build_config.h'),
    `static const char VERSION_LINE[] = ${literal(version)};
static const char HELP[] =
  ${literal(help)};
static const char* const NODE_CANDIDATES[] = {${nodes.map((path) => `${literal(path)}, `).join('')}NULL};
`,
  );
  const sources = readdirSync(join(root, 'native/launcher')).filter((name) => name.endsWith('.c'));
  const flags =
    '-std=c11 -O2 -static -s -Wall -Wextra -Wconversion -Wshadow -fstack-protector-strong';
  execFileSync(
    process.env['CC'] ?? 'gcc',
    [
      ...flags.split(' '),
      '-D_GNU_SOURCE',
      `-I${generated}`,
      '-o',
      join(dist, 'cloud-hypervisor'),
      ...sources.map((name) => join('native/launcher', name)),
    ],
    { cwd: root, stdio: 'inherit' },
  );
}
