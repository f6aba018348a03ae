/**
 * The host's side of the console in one boot: where its output goes, what is typed for it, and how
 * large its terminal is.
 */
import type { CharHost } from '../devices/device.ts';
import { native } from '../native.ts';
import type { BytePort } from '../native-serial.ts';
import type { CharBackend } from './char-backend.ts';
import type { Keyboard, Typed } from './keyboard.ts';

/** How long a guest's last words may take to be written when its VM goes. */
const FLUSH_MS = 500;

const NO_TERMINAL = { cols: 0, rows: 0 };

export class ConsolePort implements CharHost {
  readonly #isTerminal: boolean;
  readonly #port: BytePort;
  readonly #typed: Typed | undefined;
  #input: Uint8Array = new Uint8Array(0);
  #listener: Parameters<CharHost['listen']>[0] | undefined;

  /** `backend` is open. What is typed goes to a console that has no line of its own. */
  constructor(backend: CharBackend, keyboard: Keyboard | undefined) {
    const onInput = () => this.#listener?.onInput();
    const { sink } = backend;
    this.#isTerminal = backend.isTerminal;
    this.#port = new native.BytePort(
      'line' in sink ? { ...sink, onInput } : { ...sink, name: 'console' },
    );
    if (!('line' in sink)) this.#typed = keyboard?.listen(onInput);
    if (this.#isTerminal) process.on('SIGWINCH', this.#onResize);
  }

  write(bytes: Uint8Array): void {
    this.#port.write(bytes);
  }

  peek(): Uint8Array {
    if (this.#typed) return this.#typed.peek();
    if (this.#input.length === 0) this.#input = this.#port.read();
    return this.#input;
  }

  drop(count: number): void {
    if (this.#typed) this.#typed.drop(count);
    else this.#input = this.#input.subarray(count);
  }

  windowSize(): { cols: number; rows: number } {
    return this.#isTerminal ? this.#port.windowSize() : NO_TERMINAL;
  }

  listen(listener: Parameters<CharHost['listen']>[0]): void {
    this.#listener = listener;
  }

  /** Waits a little for what the guest has written. */
  async flush(): Promise<void> {
    await this.#port.flush(FLUSH_MS);
  }

  /** The device is gone. Resolves when the backend's file is no longer in use. */
  async close(): Promise<void> {
    process.off('SIGWINCH', this.#onResize);
    await this.#port.close();
  }

  #onResize = (): void => this.#listener?.onResize();
}
