/**
 * Start-up: exec → connectable, → first good answer of the API, → first byte of a guest.
 *
 *     npx tsx bench/startup.ts [--peer NAME=PATH]... [--rounds N] [--json FILE]
 *
 * Subjects alternate within each round, and start in a clean environment.
 */
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { microGuest } from './support/micro-guest.ts';
import { buildProbe } from './support/probe.ts';
import { add, type Goal, report, type Samples } from './support/record.ts';
import { benchOptions, type Subject } from './support/subjects.ts';

const CONNECTABLE = 'connectable';
const ANSWER = 'first answer';
const BYTE = 'first guest byte';

const GOALS: Goal[] = [
  { measure: CONNECTABLE, limit: 2 },
  { measure: ANSWER, limit: 1.4, times: 'QEMU microvm' },
  { measure: BYTE, limit: 1, times: 'QEMU microvm' },
];

const root = join(import.meta.dirname, '..');
const directory = mkdtempSync(join(tmpdir(), 'startup-'));
const kernel = join(directory, 'kernel');
const samples: Samples = new Map();

const run = buildProbe(directory);

function measure(subject: Subject): void {
  const socket = join(directory, 'socket');
  const { argv, request, answer } = subject.api(socket);
  const [connectable = 0, answered = 0] = run('reply', socket, request, answer, '--', ...argv);
  for (const left of [socket, `${socket}.lock`]) rmSync(left, { force: true });
  const [byte = 0] = run('byte', '--', ...subject.guest(kernel));
  add(samples, CONNECTABLE, subject.name, connectable);
  add(samples, ANSWER, subject.name, answered);
  add(samples, BYTE, subject.name, byte);
}

try {
  const options = benchOptions(join(root, 'dist/cloud-hypervisor'), process.argv.slice(2));
  writeFileSync(kernel, microGuest());
  for (const subject of options.subjects) measure(subject); // once for the page cache
  samples.clear();
  for (let round = 0; round < options.rounds; round++)
    for (const subject of options.subjects) measure(subject);
  report('start-up', samples, GOALS, options.json);
} finally {
  rmSync(directory, { recursive: true });
}
