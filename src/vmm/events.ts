/**
 * The event monitor: what becomes of the VMM, its VM and its devices, as JSON objects for whoever
 * started us. Each is pretty-printed, with an empty line behind it.
 *
 * Nothing waits for a reader. One that is slow finds everything in its pipe and, beyond that, 256
 * KiB of later events; what comes then is lost, whole events at a time.
 */
import { constants, fstatSync, openSync, type Stats, statSync, writeSync } from 'node:fs';
import { Socket } from 'node:net';

/** What is told of. Properties are those that clients read. */
export type VmmEvent =
  | { source: 'vmm'; event: 'starting' | 'shutdown' }
  | {
      source: 'vm';
      event:
        | 'booting'
        | 'booted'
        | 'pausing'
        | 'paused'
        | 'resuming'
        | 'resumed'
        | 'rebooting'
        | 'rebooted'
        | 'resizing'
        | 'resized'
        | 'shutdown'
        | 'deleted';
    }
  | { source: 'vm'; event: 'device-removed'; properties: { id: string; bdf: string } }
  | { source: 'virtio-device'; event: 'activated' | 'reset'; properties: { id: string } }
  | {
      source: 'guest';
      event: 'panic';
      properties: { event: 'panic' | 'crash_loaded' | 'unknown_event' };
    };

/** Waits for nothing, and never throws. */
export type OnEvent = (event: VmmEvent) => void;

const WAITING_BYTES_MAX = 256 * 1024;

export interface EventMonitorOptions {
  /** A file by its name, which is made or truncated; or one that was inherited open. */
  where: { path: string } | { fd: number };
  /** Events are lost from now on; once. */
  onLost: (reason: string) => void;
}

export class EventMonitor {
  readonly #onLost: (reason: string) => void;
  readonly #write: (text: string) => void;
  #lost = false;

  /** Returns at once, also for a FIFO that nobody reads. @throws SystemError of open or fstat. */
  constructor({ where, onLost }: EventMonitorOptions) {
    this.#onLost = onLost;
    const stat =
      'fd' in where ? fstatSync(where.fd) : statSync(where.path, { throwIfNoEntry: false });
    const fd = openFor(where, stat);
    this.#write =
      stat?.isFIFO() || stat?.isSocket() ? this.#streamTo(fd) : (text) => writeSync(fd, text);
  }

  tell: OnEvent = ({ source, event, ...rest }) => {
    const ms = performance.now(); // since the process started
    const timestamp = { secs: Math.floor(ms / 1000), nanos: Math.floor((ms % 1000) * 1e6) };
    const properties = 'properties' in rest ? rest.properties : null;
    try {
      this.#write(`${JSON.stringify({ timestamp, source, event, properties }, null, 2)}\n\n`);
    } catch (error) {
      this.#lose((error as Error).message);
    }
  };

  #streamTo(fd: number): (text: string) => void {
    const stream = new Socket({ fd, readable: false, writable: true });
    stream.unref(); // no reason to stay
    stream.on('error', (error) => this.#lose(error.message));
    return (text) => {
      if (stream.writableLength + text.length <= WAITING_BYTES_MAX) stream.write(text);
      else this.#lose('nobody reads them');
    };
  }

  #lose(reason: string): void {
    if (!this.#lost) this.#onLost(`Events are lost: ${reason}`);
    this.#lost = true;
  }
}

/**
 * A descriptor whose writes do not block. An inherited one is opened anew for that, since others
 * share its flags; where that is not allowed, it is used as it is. A pipe is opened for reading
 * too: then it is no error that nobody else reads it yet, or any more.
 */
function openFor(where: EventMonitorOptions['where'], stat: Stats | undefined): number {
  const { O_CREAT, O_NOCTTY, O_NONBLOCK, O_RDWR, O_TRUNC, O_WRONLY } = constants;
  const flags = (stat?.isFIFO() ? O_RDWR : O_WRONLY | O_CREAT | O_TRUNC) | O_NONBLOCK | O_NOCTTY;
  if ('path' in where) return openSync(where.path, flags, 0o666);
  if (stat?.isFile() || stat?.isSocket()) return where.fd;
  try {
    return openSync(`/proc/self/fd/${where.fd}`, flags);
  } catch {
    return where.fd;
  }
}
