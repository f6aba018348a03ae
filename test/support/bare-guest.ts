/** Builds the guests of `test/guests/`: bare programs that boot as kernels by PVH. */
import { execFileSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { existsSync, mkdirSync, readdirSync, readFileSync, renameSync } from 'node:fs';
import { join, resolve } from 'node:path';

const SOURCES = resolve('test/guests');
const LIBRARY = ['start.S', 'guest.c', 'virtio.c', 'iommu.c'];
const OUTPUT = resolve('build/guests');

// Code that any back end of KVM can run, one that interprets it included.
const FLAGS = [
  ...['-std=gnu17', '-Os', '-m64', '-Wall', '-Wextra', '-Werror', '-ffreestanding', '-nostdlib'],
  ...['-static', '-fno-pic', '-no-pie', '-mno-red-zone', '-mgeneral-regs-only'],
  ...['-fno-stack-protector', '-fno-asynchronous-unwind-tables', '-fcf-protection=none'],
  ...['-Wl,--build-id=none', '-Wl,--no-warn-rwx-segments', '-Wl,-T,guest.ld'],
];

/** The path of `test/guests/NAME.c` as a kernel; made once for what its sources say. */
export function bareGuest(name: string): string {
  const hash = createHash('sha256').update(FLAGS.join());
  for (const file of readdirSync(SOURCES).sort()) hash.update(readFileSync(join(SOURCES, file)));
  const path = join(OUTPUT, `${name}-${hash.digest('hex').slice(0, 16)}`);
  if (existsSync(path)) return path;
  mkdirSync(OUTPUT, { recursive: true });
  const part = `${path}.${process.pid}`; // another test may want the same
  execFileSync('gcc', [...FLAGS, ...LIBRARY, `${name}.c`, '-o', part], { cwd: SOURCES });
  renameSync(part, path);
  return path;
}
