/**
 * The host's side of all that a guest prints to and is typed at, from vm.create to vm.delete; and
 * of one boot, the ports of those devices.
 */
import type { Vm } from '../native.ts';
import { CharBackend, type CharSettings } from './char-backend.ts';
import { ConsolePort } from './console-port.ts';
import { Keyboard } from './keyboard.ts';
import { SerialPort } from './serial-port.ts';

interface Settings {
  console: CharSettings;
  serial: CharSettings;
}

export class Consoles {
  readonly console: CharBackend;
  readonly serial: CharBackend;

  /** The console first, so that its pty has the lower number. @throws as CharBackend. */
  constructor({ console, serial }: Settings) {
    this.console = new CharBackend('console', console);
    try {
      this.serial = new CharBackend('serial', serial);
    } catch (error) {
      this.console.close();
      throw error;
    }
  }

  /** The config, with the names of the ptys in it. */
  named<T extends Settings>(config: T): T {
    const { console, serial } = this;
    const file = ({ ptyPath }: CharBackend) => ptyPath !== undefined && { file: ptyPath };
    return {
      ...config,
      console: { ...config.console, ...file(console) },
      serial: { ...config.serial, ...file(serial) },
    };
  }

  /** Before every boot, as CharBackend.open. */
  open(): void {
    this.console.open();
    this.serial.open();
  }

  hangUp(): void {
    this.console.hangUp();
    this.serial.hangUp();
  }

  /** Idempotent. */
  close(): void {
    this.console.close();
    this.serial.close();
  }
}

/** What of the host's side belongs to one boot. */
export class Ports {
  readonly #consoles: Consoles;
  readonly #keyboard: Keyboard | undefined;
  readonly serial: SerialPort | undefined;
  readonly console: ConsolePort;

  /** `consoles` are open. */
  constructor(vm: Vm, consoles: Consoles) {
    const { console, serial } = consoles;
    this.#consoles = consoles;
    if (console.isTerminal || serial.isTerminal) this.#keyboard = new Keyboard();
    if (serial.isThere) this.serial = new SerialPort(vm, serial, this.#keyboard);
    this.console = new ConsolePort(console, console.isThere ? this.#keyboard : undefined);
  }

  /** Once the guest runs, which need not wait for what it takes to read a terminal. */
  start(): void {
    this.#keyboard?.open();
  }

  /** Waits a little for what the guest has written. The Vm may be stopped afterwards. */
  async flush(): Promise<void> {
    await Promise.all([this.serial?.flush(), this.console.flush()]);
  }

  /** Once the Vm has stopped and the devices are gone. */
  async close(): Promise<void> {
    this.#keyboard?.close();
    await this.console.close();
    this.#consoles.console.endBoot();
    this.#consoles.serial.endBoot();
  }
}
