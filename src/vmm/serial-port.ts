/**
 * The serial port of one boot: the chip, plugged into the host's side. What is typed at our own
 * terminal comes through here; all else is moved by native threads.
 */
import type { Vm } from '../native.ts';
import type { Uart16550 } from '../native-serial.ts';
import type { CharBackend } from './char-backend.ts';
import type { Keyboard, Typed } from './keyboard.ts';
import { GSI, PORTS } from './layout.ts';

const NOTHING = new Uint8Array(0);

/** How long a guest's last words may take to be written when its VM goes. */
const FLUSH_MS = 500;

export class SerialPort {
  readonly #uart: Uart16550;
  readonly #typed: Typed | undefined;

  /** `backend` is open. */
  constructor(vm: Vm, backend: CharBackend, keyboard: Keyboard | undefined) {
    const at = { base: PORTS.serial.base, gsi: GSI.serial };
    const { sink } = backend;
    if ('line' in sink) {
      this.#uart = vm.uart({ ...at, ...sink });
      return;
    }
    this.#uart = vm.uart({ ...at, ...sink, onRoom: () => this.#feed() });
    this.#typed = keyboard?.listen(() => this.#feed());
  }

  /** Waits a little for what the guest has written. The Vm may be stopped afterwards. */
  async flush(): Promise<void> {
    await this.#uart.flush(FLUSH_MS);
  }

  #feed(): void {
    const bytes = this.#typed?.peek() ?? NOTHING;
    if (bytes.length > 0) this.#typed?.drop(this.#uart.input(bytes));
  }
}
