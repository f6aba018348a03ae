/**
 * The process: argv → VM and API → exit code. The VM is started first, and what the API needs is
 * loaded only if it is asked for, while the guest already runs.
 */
import { unlinkSync, writeFileSync, writeSync } from 'node:fs';
import { type CommandLine, parseCommandLine } from './api/cli.ts';
import { UsageError } from './api/cli-scan.ts';
import type { Dialect } from './api/dialects.ts';
import type { WireServer } from './api/wire.ts';
import { errorChain, osError, VmmError } from './errors.ts';
import { child, configureLog, flushLog, limited } from './log.ts';
import { native } from './native.ts';
import type { VmConfig } from './vmm/config.ts';
import type { EventMonitorOptions, OnEvent } from './vmm/events.ts';
import { Vmm } from './vmm/vmm.ts';

/** A VM that will not stop is not awaited longer. */
const STOP_MS_MAX = 400;

/** Nor is a client that reads no answer. */
const ANSWERS_MS_MAX = 200;

/** As long as a timer can be: with neither a VM nor an API, a client's signal is still to come. */
const FOREVER_MS = 2 ** 31 - 1;

const START_FAILED = 'Failed to start the VMM thread';

const SETTLE_AFTER_MS = 1000;

/** So many leave garbage that V8 would keep, and wake up for, minutes after the last. */
const MANY_REQUESTS = 256;

/** Events of what leaves garbage behind. */
const LITTERING: ReadonlySet<string> = new Set(['booted', 'rebooted', 'device-removed']);

const log = child('main');

/** What the launcher did before there was node: see native/launcher/main.c. */
function takeLaunchFacts(): { api?: { fd: number; path: string } } {
  const { CLOUD_HYPERVISOR_API: api, CLOUD_HYPERVISOR_COMM: name } = process.env;
  delete process.env['CLOUD_HYPERVISOR_API'];
  delete process.env['CLOUD_HYPERVISOR_COMM'];
  if (name) writeFileSync('/proc/self/comm', name); // exec called us node
  if (!api) return {};
  const colon = api.indexOf(':');
  return { api: { fd: Number(api.slice(0, colon)), path: api.slice(colon + 1) } };
}

/** The text that the original prints; the chain is what went wrong, outermost first. */
function failureText(chain: readonly string[]): string {
  const title = 'Error: Cloud Hypervisor exited with the following';
  if (chain.length === 1) return `${title} error:\n  ${chain[0]}\n`;
  return [`${title} chain of errors:`, ...chain.map((text, i) => `  ${i}: ${text}`), ''].join('\n');
}

async function fail(chain: readonly string[]): Promise<never> {
  log.error(`Fatal error: ${chain.at(-1)}`);
  await flushLog();
  writeSync(2, failureText(chain));
  process.exit(1);
}

class Process {
  readonly #vmm: Vmm<Dialect>;
  #server: WireServer | undefined;
  #stopped = false;
  #ending = false;

  constructor(noShutdown: boolean, onEvent: OnEvent) {
    this.#vmm = new Vmm({
      noShutdown,
      onExit: (code) => {
        this.#stopped = true;
        void this.#end(code);
      },
      onWarning: limited(log), // a guest can cause them at will
      onEvent: (event) => {
        if (LITTERING.has(event.event)) settleLater();
        onEvent(event);
      },
    });
  }

  async boot(config: VmConfig): Promise<void> {
    try {
      await this.#vmm.createAndBoot(config, 'today');
    } catch (error) {
      await fail(['Error booting VM', ...errorChain(error)]);
    }
  }

  async listen(where: { fd: number } | { path: string }): Promise<void> {
    const { createApi } = await import('./api/server.ts');
    this.#server = await createApi(this.#vmm, countRequest);
    try {
      this.#server.listen(where);
      if ('path' in where) removeAtExit(where.path);
    } catch (error) {
      await fail([START_FAILED, "Error creation API server's socket", ...errorChain(error)]);
    }
  }

  onSignal(): void {
    setTimeout(() => void this.#end(0), STOP_MS_MAX);
    void this.#vmm.exit(0);
  }

  /** What clients and the log are still owed goes out first, if that takes no time. */
  async #end(code: number): Promise<void> {
    if (this.#ending) return;
    this.#ending = true;
    setTimeout(() => leave(code), ANSWERS_MS_MAX);
    await Promise.all([this.#server?.close(), flushLog()]);
    if (this.#stopped) process.exit(code);
    leave(code);
  }
}

/** For when not everything has ended. What must be put back first listens for `exit`. */
function leave(code: number): void {
  process.emit('exit', code);
  native.exitNow(code);
}

/** The socket file goes with the process, whatever ends it. */
function removeAtExit(path: string): void {
  process.on('exit', () => {
    try {
      unlinkSync(path);
    } catch {
      // It is gone already.
    }
  });
}

function readCommandLine(): CommandLine {
  try {
    return parseCommandLine(process.argv.slice(2));
  } catch (error) {
    if (!(error instanceof UsageError)) throw error;
    writeSync(error.stream === 'stdout' ? 1 : 2, error.message);
    process.exit(error.exitCode);
  }
}

let settling: NodeJS.Timeout | undefined;

/** After a start, many requests, and what is `LITTERING`: when nobody waits for us any more. */
function settleLater(): void {
  clearTimeout(settling);
  settling = setTimeout(() => void settle(), SETTLE_AFTER_MS);
}

/** Since they were last settled after. */
let requests = 0;

function countRequest(): void {
  if (++requests >= MANY_REQUESTS) settleLater();
}

/** Gives back what that needed and idling does not. */
async function settle(): Promise<void> {
  const { setFlagsFromString } = await import('node:v8');
  const { runInNewContext } = await import('node:vm');
  setFlagsFromString('--semi-space-growth-factor=1'); // else bursts of requests grow the heap
  setFlagsFromString('--expose-gc'); // for contexts that are made from now on
  requests = 0;
  const collect = runInNewContext('globalThis.gc'); // undefined while the build rehearses
  // What native objects held is freed after a collection, and what that held by the next.
  for (let round = 0; round < 2; round++) {
    collect?.();
    await new Promise((resolve) => setImmediate(resolve));
  }
  await native.trimMemory();
}

/** Whoever asks for these must not think that he has them. */
function refuseUnserved({ restore }: CommandLine): void {
  if (restore) throw new VmmError('invalid-config', 'Not supported yet: --restore');
}

/** Nor whoever asks for what the original has, and a VM can do without. */
function warnUnserved({ seccomp }: CommandLine): void {
  if (seccomp) log.warn('--seccomp has no effect: no filter of system calls is installed');
}

async function openMonitor(where: EventMonitorOptions['where'] | undefined): Promise<OnEvent> {
  if (where === undefined) return () => {};
  const { EventMonitor } = await import('./vmm/events.ts');
  try {
    return new EventMonitor({ where, onLost: (reason) => log.warn(reason) }).tell;
  } catch (error) {
    throw new VmmError('host', 'Error doing event monitor I/O', osError(error));
  }
}

async function main(): Promise<void> {
  let self: Process | undefined;
  for (const signal of ['SIGTERM', 'SIGINT', 'SIGHUP'] as const)
    process.on(signal, () => self?.onSignal());
  process.on('SIGUSR1', () => {}); // node would open a port for debuggers
  process.on('SIGUSR2', () => {}); // it would end us
  const { api } = takeLaunchFacts();
  if (api?.path) removeAtExit(api.path);
  const commandLine = readCommandLine();
  const { apiSocket, config, eventMonitor, logFile, logFormat, noShutdown, verbosity } =
    commandLine;
  try {
    configureLog(verbosity, logFile, logFormat);
  } catch (error) {
    throw new VmmError('invalid-config', 'Error creating log file', error);
  }
  refuseUnserved(commandLine);
  warnUnserved(commandLine);

  const onEvent = await openMonitor(eventMonitor);
  onEvent({ source: 'vmm', event: 'starting' });
  self = new Process(noShutdown, onEvent);
  setInterval(() => {}, FOREVER_MS);
  if (config) await self.boot(config);
  if (apiSocket) await self.listen(api ?? apiSocket);
  settleLater();
}

main().catch((error: unknown) => fail(errorChain(error)));
