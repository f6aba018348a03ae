/**
 * The log: pino in the original's line format, to stderr or --log-file. Loaded with the first line
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
let sink: Promise<Sink> | undefined;

/**
 * To be called before the first line.
 * @param verbosity how many `-v` were given: 0 is warn, 3 and more trace.
 * @throws SystemError of open(2).
 */
export function configureLog(verbosity: number, file?: string): void {
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
      const level = LEVELS[LEVELS.length - stream.lastLevel / 10]?.toUpperCase();
      const time = seconds.toFixed(6).padStart(10);
      const text = stream.lastMsg.replace(/\p{Cc}/gu, ' '); // a guest can't forge lines
      write(`cloud-hypervisor: ${time}s: <main> ${level}:${name} -- ${text}\r\n`);
    },
  };
  return stream;
}
