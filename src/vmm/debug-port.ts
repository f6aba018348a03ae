/** The debug console of one boot: what the guest writes to a port, native threads move on. */
import { native, type Vm } from '../native.ts';
import type { BytePort } from '../native-serial.ts';
import type { CharBackend } from './char-backend.ts';

/** How long a guest's last words may take to be written when its VM goes. */
const FLUSH_MS = 500;

export class DebugPort {
  readonly #port: BytePort;

  /** `backend` is open. What is typed at a line stays there: the port only prints. */
  constructor(vm: Vm, backend: CharBackend, port: number) {
    const { sink } = backend;
    this.#port = new native.BytePort(
      'line' in sink ? { ...sink, onInput: () => {} } : { ...sink, name: 'debug_console' },
    );
    vm.debugPort(port, this.#port);
  }

  /** Waits a little for what the guest has written. The Vm may be stopped afterwards. */
  async flush(): Promise<void> {
    await this.#port.flush(FLUSH_MS);
  }

  /** The Vm has stopped. Resolves when the backend's file is no longer in use. */
  async close(): Promise<void> {
    await this.#port.close();
  }
}
