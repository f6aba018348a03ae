/**
 * The log: pino in the original's line formats, to stderr or --log-file. Loaded with the first line
 * that is written, which most VMs never do.
 *
 * `error`: a request failed; `warn`: odd but contained; `info`: a change of state. What a guest can
 * cause at will goes through `limited`.
 */
import { constants, openSync } from 'node:fs';
import type { DestinationStream, Logger as Pino } from 'pino';

const LEVELS = ['error', 'warn', 'info', 'debug', 'trace'] as const;
type Level = (typeof LEVELS)[number];

/** Logs under the name of a part of the VMM, which stands where the original has file and line. */
export type Logger = Record<Level, (message: string) => void>;

interface Line {
  /** Since the process started. */
  seconds: number;
  level: string;
  name: string;
  text: string;
}

const DEFAULT_FORMAT = 'cloud-hypervisor: {boottime}s: <{thread}> {level}:{location} -- {msg}';

/** `2026-01-31T23:59:59.123456Z`: Date knows no microseconds. */
function isoTime(seconds: number, zoneMinutes: number): string {
  const ms = performance.timeOrigin + seconds * 1000;
  const us = Math.floor((ms % 1) * 1000);
  const date = new Date(ms - zoneMinutes * 60_000);
  return date.toISOString().replace('Z', `${us.toString().padStart(3, '0')}Z`);
}

/** `0131 23:59:59.123456` */
const glogTime = (iso: string): string => iso.replace(/^\d+-(\d\d)-(\d\d)T(.*)Z$/, '$1$2 $3');

const zoneMinutes = () => new Date().getTimezoneOffset();

/** What may stand in braces in a format. */
const TOKENS: Readonly<Record<string, (line: Line) => string>> = {
  boottime: ({ seconds }) => seconds.toFixed(6).padStart(10),
  wallclock: ({ seconds }) => isoTime(seconds, 0),
  glog: ({ seconds }) => glogTime(isoTime(seconds, 0)),
  localglog: ({ seconds }) => glogTime(isoTime(seconds, zoneMinutes())),
  thread: () => 'main',
  level: ({ level }) => level,
  location: ({ name }) => name,
  msg: ({ text }) => text,
};

/** The first `{token}` of a format that is none. */
export const unknownToken = (format: string): string | undefined =>
  format.match(/\{[^}]*\}/g)?.find((token) => !Object.hasOwn(TOKENS, token.slice(1, -1)));

const render = (format: string, line: Line): string =>
  format.replace(/\{([^}]*)\}/g, (token, name: string) => TOKENS[name]?.(line) ?? token);

/** Lines that wait for a slow reader; later ones are dropped, so that nothing else waits. */
const WAITING_BYTES_MAX = 1024 * 1024;

/** One line a second is enough to see that a guest misbehaves. */
const LIMIT_MS = 1000;

interface Sink {
  pino: Pino;
  flush: () => Promise<void>;
}

let threshold = LEVELS.indexOf('warn');
let fd = 2;
let format = DEFAULT_FORMAT;
let sink: Promise<Sink> | undefined;

/**
 * To be called before the first line.
 * @param verbosity how many `-v` were given: 0 is warn, 3 and more trace.
 * @param lineFormat has no unknown token.
 * @throws SystemError of open(2).
 */
export function configureLog(verbosity: number, file?: string, lineFormat = DEFAULT_FORMAT): void {
  format = lineFormat;
  threshold = Math.min(LEVELS.indexOf('warn') + verbosity, LEVELS.length - 1);
  const { O_WRONLY, O_CREAT, O_TRUNC, O_APPEND, O_NOCTTY } = constants;
  fd =
    file === undefined
      ? 2
      : openSync(file, O_WRONLY | O_CREAT | O_TRUNC | O_APPEND | O_NOCTTY, 0o600);
  sink = undefined;
}

export function child(name: string): Logger {
  const write = (level: Level) => (message: string) => {
    if (LEVELS.indexOf(level) > threshold) return;
    const seconds = performance.now() / 1000;
    sink ??= open();
    void sink.then(({ pino }) => pino[level]({ name, seconds }, message));
  };
  return Object.fromEntries(LEVELS.map((level) => [level, write(level)])) as Logger;
}

/** A warning that a guest can trigger as often as it likes: once a second, with a count. */
export function limited(log: Logger): (message: string) => void {
  let last = Number.NEGATIVE_INFINITY;
  let left = 0;
  return (message) => {
    const now = performance.now();
    if (now - last < LIMIT_MS) {
      left++;
      return;
    }
    log.warn(left === 0 ? message : `${message} (and ${left} times like it before)`);
    last = now;
    left = 0;
  };
}

/** Resolves when every line so far is written. */
export async function flushLog(): Promise<void> {
  await (await sink)?.flush();
}

async function open(): Promise<Sink> {
  const { destination, pino } = (await import('pino')).default;
  // At 0, which means the same otherwise, flush would wait for nothing.
  const output = destination({ dest: fd, sync: false, minLength: 1, maxLength: WAITING_BYTES_MAX });
  output.on('error', () => {}); // a closed stderr is no reason to end a VM
  const options = { base: null, timestamp: false, level: 'trace' };
  return {
    pino: pino(
      options,
      formatter((line) => output.write(line)),
    ),
    flush: () => new Promise((resolve) => output.flush(() => resolve())),
  };
}

/** Takes from pino what it is about to write, rather than the JSON that it makes of it. */
function formatter(write: (line: string) => void): DestinationStream {
  const stream = {
    [Symbol.for('pino.metadata')]: true,
    lastLevel: 0,
    lastObj: { name: '', seconds: 0 },
    lastMsg: '',
    write() {
      const { name, seconds } = stream.lastObj;
      const level = LEVELS[LEVELS.length - stream.lastLevel / 10]?.toUpperCase() ?? '';
      const text = stream.lastMsg.replace(/\p{Cc}/gu, ' '); // a guest can't forge lines
      write(`${render(format, { seconds, level, name, text })}\r\n`);
    },
  };
  return stream;
}
