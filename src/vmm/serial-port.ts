/**
 * The serial port of one boot: the chip, plugged into the host's side. What a person types at our
 * own terminal comes through here; all else is moved by native threads.
 */
import type { Uart16550, Vm } from '../native.ts';
import { GSI, PORTS } from './layout.ts';
import type { SerialBackend } from './serial-backend.ts';
import { Terminal } from './terminal.ts';

const STDOUT = 1;
const NOWHERE = -1;

/** How long a guest's last words may take to be written when its VM goes. */
const FLUSH_MS = 500;

export class SerialPort {
  readonly #backend: SerialBackend;
  readonly #uart: Uart16550;
  readonly #terminal: Terminal | undefined;

  /** `backend` is open. */
  constructor(vm: Vm, backend: SerialBackend) {
    this.#backend = backend;
    const { isTerminal, line } = backend;
    const at = { base: PORTS.serial.base, gsi: GSI.serial };
    const fd = isTerminal ? STDOUT : (backend.file ?? NOWHERE);
    this.#uart = vm.uart(line ? { ...at, line } : { ...at, fd, onRoom: this.#onRoom });
    if (isTerminal) this.#terminal = new Terminal((bytes) => this.#uart.input(bytes));
  }

  /** Waits a little for what the guest has written. The Vm may be stopped afterwards. */
  async flush(): Promise<void> {
    await this.#uart.flush(FLUSH_MS);
  }

  /** Once the Vm has stopped. */
  close(): void {
    this.#terminal?.close();
    this.#backend.endBoot();
  }

  #onRoom = (): void => this.#terminal?.resume();
}
