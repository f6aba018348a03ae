/**
 * The host's side of all that a guest prints to and is typed at, from vm.create to vm.delete; and
 * of one boot, the ports of those devices.
 */
import type { Vm } from '../native.ts';
import { CharBackend, type CharSettings } from './char-backend.ts';
import { ConsolePort } from './console-port.ts';
import { DebugPort } from './debug-port.ts';
import { Keyboard } from './keyboard.ts';
import { PORTS } from './layout.ts';
import { SerialPort } from './serial-port.ts';

interface Settings {
  console: CharSettings;
  serial: CharSettings;
  debug_console: CharSettings & { iobase?: number | undefined };
}

export class Consoles {
  readonly console: CharBackend;
  readonly serial: CharBackend;
  readonly debug: CharBackend;
  /** The port of the debug console. */
  readonly debugPort: number;
  readonly #all: CharBackend[] = [];

  /** In the order in which the original numbers their ptys. @throws as CharBackend. */
  constructor(settings: Settings) {
    try {
      this.console = this.#make('console', settings);
      this.serial = this.#make('serial', settings);
      this.debug = this.#make('debug_console', settings);
    } catch (error) {
      this.close();
      throw error;
    }
    this.debugPort = settings.debug_console.iobase ?? PORTS.debugConsole.base;
  }

  #make(field: keyof Settings, settings: Settings): CharBackend {
    const backend = new CharBackend(field, settings[field]);
    this.#all.push(backend);
    return backend;
  }

  /** The config, with the names of the ptys in it. */
  named<T extends Settings>(config: T): T {
    const file = ({ ptyPath }: CharBackend) => ptyPath !== undefined && { file: ptyPath };
    return {
      ...config,
      console: { ...config.console, ...file(this.console) },
      serial: { ...config.serial, ...file(this.serial) },
      debug_console: { ...config.debug_console, ...file(this.debug) },
    };
  }

  /** Before every boot, as CharBackend.open. */
  open(): void {
    for (const backend of this.#all) backend.open();
  }

  /** After a boot, as CharBackend.endBoot. */
  endBoot(): void {
    for (const backend of this.#all) backend.endBoot();
  }

  hangUp(): void {
    for (const backend of this.#all) backend.hangUp();
  }

  /** Idempotent. */
  close(): void {
    for (const backend of this.#all) backend.close();
  }
}

/** What of the host's side belongs to one boot. */
export class Ports {
  readonly #consoles: Consoles;
  readonly #keyboard: Keyboard | undefined;
  readonly serial: SerialPort | undefined;
  readonly console: ConsolePort;
  readonly debug: DebugPort | undefined;

  /** `consoles` are open. */
  constructor(vm: Vm, consoles: Consoles) {
    const { console, serial, debug } = consoles;
    this.#consoles = consoles;
    if (console.isTerminal || serial.isTerminal) this.#keyboard = new Keyboard();
    if (serial.isThere) this.serial = new SerialPort(vm, serial, this.#keyboard);
    if (debug.isThere) this.debug = new DebugPort(vm, debug, consoles.debugPort);
    this.console = new ConsolePort(console, console.isThere ? this.#keyboard : undefined);
  }

  /** Once the guest runs, which need not wait for what it takes to read a terminal. */
  start(): void {
    this.#keyboard?.open();
  }

  /** Waits a little for what the guest has written. The Vm may be stopped afterwards. */
  async flush(): Promise<void> {
    await Promise.all([this.serial?.flush(), this.debug?.flush(), this.console.flush()]);
  }

  /** Once the Vm has stopped and the devices are gone. */
  async close(): Promise<void> {
    this.#keyboard?.close();
    await Promise.all([this.console.close(), this.debug?.close()]);
    this.#consoles.endBoot();
  }
}
