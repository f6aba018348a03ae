/**
 * Where the serial port's bytes go to and come from. Output is the native writer's; input is read
 * here, for it is what a person types.
 */
import { closeSync, constants, openSync } from 'node:fs';
import { VmmError } from '../errors.ts';
import type { Uart16550, Vm } from '../native.ts';
import { GSI, PORTS } from './layout.ts';
import { Terminal } from './terminal.ts';

const { O_CREAT, O_NOCTTY, O_NONBLOCK, O_TRUNC, O_WRONLY } = constants;
const STDOUT = 1;

/** As in the config; modes that are not built yet were refused before. */
export interface SerialSettings {
  mode: string;
  file?: string | undefined;
}

/** How long a guest's last words may take to be written when its VM goes. */
const FLUSH_MS = 500;

export class SerialPort {
  readonly #uart: Uart16550;
  readonly #file: number | undefined;
  readonly #terminal: Terminal | undefined;

  /** A file is created or truncated: its contents are those of the latest boot. */
  constructor(vm: Vm, { mode, file }: SerialSettings) {
    this.#file = mode === 'File' ? openOutput(file ?? '') : undefined;
    const fd = mode === 'Tty' ? STDOUT : (this.#file ?? -1);
    const onRoom = () => this.#terminal?.resume();
    this.#uart = vm.uart({ base: PORTS.serial.base, gsi: GSI.serial, fd, onRoom });
    if (mode === 'Tty') this.#terminal = new Terminal((bytes) => this.#uart.input(bytes));
  }

  /** Waits a little for what the guest has written. The Vm may be stopped afterwards. */
  async flush(): Promise<void> {
    this.#terminal?.close();
    await this.#uart.flush(FLUSH_MS);
  }

  /** Once the Vm has stopped: until then its writer has the descriptor. */
  close(): void {
    if (this.#file !== undefined) closeSync(this.#file);
  }
}

/** Without O_NONBLOCK, open(2) of a FIFO would wait for a reader, and the whole VMM with it. */
function openOutput(path: string): number {
  const flags = O_WRONLY | O_CREAT | O_TRUNC | O_NOCTTY | O_NONBLOCK;
  try {
    return openSync(path, flags, 0o666);
  } catch (cause) {
    throw new VmmError('invalid-config', `Cannot open serial file ${path}`, cause);
  }
}
