import { spawn } from 'node:child_process';
import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { bundle } from '../../scripts/build/bundle.ts';
import { exchange } from './support/http.ts';

const ROOT = join(import.meta.dirname, '../..');
const DIST = join(ROOT, 'dist');

/** Both run in the VMM's node before the loader: at SIGUSR2 they tell what was loaded since. */
const BUILTINS_SPY = `
const { writeFileSync } = require('node:fs');
process.on('SIGUSR2', () => {
  const loaded = process.moduleLoadList.filter((name) => !before.has(name));
  writeFileSync(process.env.SPY_FILE, JSON.stringify(loaded));
  process.exit(0);
});
const before = new Set(process.moduleLoadList);
`;
const BUNDLE_SPY = `
const { Session } = require('node:inspector');
const { writeFileSync } = require('node:fs');
const session = new Session();
session.connect();
session.post('Profiler.enable');
session.post('Profiler.startPreciseCoverage', { callCount: false, detailed: false });
process.on('SIGUSR2', () => session.post('Profiler.takePreciseCoverage', (_error, { result }) => {
  const { functions } = result.find(({ url }) => url.endsWith('/vmm.cjs'));
  const run = functions.filter(({ ranges: [range] }) => range.count > 0);
  writeFileSync(process.env.SPY_FILE, JSON.stringify(run.map(({ functionName }) => functionName)));
  process.exit(0);
}));
`;

const FASTIFY = expect.stringMatching(/\bnode_modules\/fastify\/fastify\.js$/);

let directory: string;

beforeEach(() => {
  directory = mkdtempSync(join(tmpdir(), 'modules-'));
});

afterEach(() => {
  rmSync(directory, { recursive: true });
});

/** What the spy tells after the first ping. */
async function loadedAfterPing(spyText: string): Promise<string[]> {
  const [spy, file, socket] = ['spy.cjs', 'loaded', 'api'].map((name) => join(directory, name));
  if (!spy || !file || !socket) throw new Error('Three names give three paths');
  writeFileSync(spy, spyText);
  const argv = ['--require', spy, join(DIST, 'loader.cjs'), '--api-socket', socket];
  const child = spawn(process.execPath, argv, { env: { SPY_FILE: file }, stdio: 'inherit' });
  const ended = new Promise((resolve) => child.on('exit', resolve));

  await expect.poll(() => existsSync(socket), { timeout: 10_000 }).toBe(true);
  expect(await exchange(socket, 'GET /api/v1/vmm.ping HTTP/1.1\r\n\r\n')).toContain('200');
  child.kill('SIGUSR2');
  await ended;
  return JSON.parse(readFileSync(file, 'utf8')) as string[];
}

test('after the first ping hardly a module of node has been loaded', async () => {
  const loaded = await loadedAfterPing(BUILTINS_SPY);

  const modules = loaded.filter((name) => /^NativeModule (?!internal\/)/.test(name));
  const few = ['diagnostics_channel', 'module', 'vm'];
  expect(modules.sort()).toEqual(few.map((name) => `NativeModule ${name}`));
});

test('after the first ping nothing of the bundle has run that a ping does not need', async () => {
  const loaded = await loadedAfterPing(BUNDLE_SPY);

  expect(loaded).toContainEqual(FASTIFY); // so the names are what we think
  const unwanted = /\/(ajv|fast-json-stringify|pino|light-my-request|semver)\//;
  expect(loaded.filter((name) => unwanted.test(name))).toEqual([]);
});

test('the bundle has no part of what compiles schemas or fakes requests', async () => {
  const { inputs } = await bundle(ROOT, directory);

  const names = Object.keys(inputs);
  expect(names).toContainEqual(FASTIFY);
  const unwanted = /node_modules\/(ajv|fast-json-stringify|@sinclair\/typebox|light-my-request)\//;
  expect(names.filter((name) => unwanted.test(name))).toEqual([]);
});
