/** `dist/cloud-hypervisor` and `dist/ch-remote`, with what they say by themselves compiled in. */
import { execFileSync } from 'node:child_process';
import { mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';

const NODES = [...new Set([process.execPath, '/usr/bin/node', '/usr/local/bin/node'])];

/** By executable, of native/launcher. */
const SOURCES = {
  'cloud-hypervisor': ['main.c', 'api_socket.c', 'fail.c', 'node.c'],
  'ch-remote': ['remote.c', 'fail.c', 'node.c'],
};

export interface LauncherOptions {
  root: string;
  dist: string;
  name?: keyof typeof SOURCES;
  help: string;
  version: string;
  /** Where node may be, before PATH is looked at. */
  nodes?: readonly string[];
}

const literal = (text: string): string =>
  `"${text.replace(/["\\]/g, '\\$&').replaceAll('\n', '\\n"\n  "')}"`;

export function buildLauncher(options: LauncherOptions): void {
  const { root, dist, name = 'cloud-hypervisor', help, version, nodes = NODES } = options;
  const generated = join(root, 'build', 'launcher', name);
  mkdirSync(generated, { recursive: true });
  writeFileSync(
    join(generated, 'build_config.h'),
    `static const char VERSION_LINE[] = ${literal(version)};
static const char HELP[] =
  ${literal(help)};
static const char* const NODE_CANDIDATES[] = {${nodes.map((path) => `${literal(path)}, `).join('')}NULL};
`,
  );
  const flags =
    '-std=c11 -O2 -static -s -Wall -Wextra -Wconversion -Wshadow -fstack-protector-strong';
  execFileSync(
    process.env['CC'] ?? 'gcc',
    [
      ...flags.split(' '),
      '-D_GNU_SOURCE',
      `-I${generated}`,
      '-o',
      join(dist, name),
      ...SOURCES[name].map((source) => join('native/launcher', source)),
    ],
    { cwd: root, stdio: 'inherit' },
  );
}
