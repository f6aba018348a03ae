import { mkdtempSync, readFileSync, rmSync, statSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test, vi } from 'vitest';
import { child, configureLog, flushLog, limited, unknownToken } from '../../src/log.ts';

let directory: string;
let file: string;

beforeEach(() => {
  directory = mkdtempSync(join(tmpdir(), 'log-'));
  file = join(directory, 'vmm.log');
});

afterEach(() => {
  configureLog(0);
  rmSync(directory, { recursive: true });
  vi.useRealTimers();
  vi.restoreAllMocks();
});

const lines = async () => {
  await flushLog();
  return readFileSync(file, 'utf8');
};

test('a line has the format of the original, ends in CR LF, and is one line', async () => {
  configureLog(0, file);

  child('api').warn('Odd\r\n');

  expect(await lines()).toMatch(
    /^cloud-hypervisor: [ \d]{2}\d\.\d{6}s: <main> WARN:api -- Odd {2}\r\n$/,
  );
  expect(statSync(file).mode & 0o777).toBe(0o600);
});

test.each([
  [
    '{wallclock} {thread} {level} {msg}',
    /^20\d\d-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z main WARN \{level\}\r\n$/,
  ],
  ['{glog} {msg}', /^\d{4} \d\d:\d\d:\d\d\.\d{6} \{level\}\r\n$/],
  ['{boottime} {location}', /^[ \d]{2}\d\.\d{6} api\r\n$/],
  ['no token', /^no token\r\n$/],
])('a line has the format %j', async (format, line) => {
  configureLog(0, file, format);

  child('api').warn('{level}');

  expect(await lines()).toMatch(line);
});

test('{wallclock} and {glog} are the time of now in UTC, {localglog} is that of here', async () => {
  vi.spyOn(Date.prototype, 'getTimezoneOffset').mockReturnValue(-90);
  const before = Date.now();
  configureLog(0, file, '{wallclock}|{glog}|{localglog}');

  child('api').warn('');

  const [wallclock = '', glog = '', local = ''] = (await lines()).trimEnd().split('|');
  expect(Math.abs(Date.parse(wallclock) - before)).toBeLessThan(5000);
  const numbers = (iso: string) => iso.replace(/\D/g, '').slice(4);
  expect(glog.replace(/\D/g, '')).toBe(numbers(wallclock));
  const here = new Date(Date.parse(wallclock) + 90 * 60_000).toISOString();
  expect(local.replace(/\D/g, '').slice(0, -3)).toBe(numbers(here));
});

test.each([
  ['{bogus} {msg}', '{bogus}'],
  ['{constructor}', '{constructor}'],
  ['{}', '{}'],
  ['{msg} {level}', undefined],
])('the unknown token of %j is %j', (format, unknown) => {
  expect(unknownToken(format)).toBe(unknown);
});

test.each([
  [0, ['ERROR', 'WARN']],
  [1, ['ERROR', 'WARN', 'INFO']],
  [2, ['ERROR', 'WARN', 'INFO', 'DEBUG']],
  [3, ['ERROR', 'WARN', 'INFO', 'DEBUG', 'TRACE']],
  [9, ['ERROR', 'WARN', 'INFO', 'DEBUG', 'TRACE']],
])('with -v %i times the levels are %j, in order', async (verbosity, levels) => {
  configureLog(verbosity, file);

  const log = child('vmm');
  for (const level of ['error', 'warn', 'info', 'debug', 'trace'] as const) log[level]('x');

  expect([...(await lines()).matchAll(/[A-Z]+(?=:vmm)/g)].flat()).toEqual(levels);
});

test('a log file is begun anew, and one that cannot be made is an error', async () => {
  configureLog(0, file);
  child('a').warn('old');
  await flushLog();

  configureLog(0, file);

  expect(await lines()).toBe('');
  expect(() => configureLog(0, join(directory, 'none', 'x'))).toThrow('ENOENT');
});

test('what a guest can cause is logged once a second, with the count of the rest', async () => {
  vi.useFakeTimers();
  const warn = vi.fn();
  const warning = limited({ ...child('guest'), warn });

  for (let i = 0; i < 1000; i++) warning('Bad kick');
  vi.advanceTimersByTime(1000);
  warning('Bad kick');

  expect(warn.mock.calls).toEqual([['Bad kick'], ['Bad kick (and 999 times like it before)']]);
});
