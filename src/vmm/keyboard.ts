/**
 * What is typed at our terminal, for every port that listens: the serial port and the console both
 * get all of it, each in its own time.
 */
import { Terminal } from './terminal.ts';

/** What waits for a port that is behind, while another port sets the pace. */
const WAITING_BYTES_MAX = 4096;

export class Keyboard {
  readonly #listeners: Typed[] = [];
  #terminal: Terminal | undefined;
  #stalled = false;

  /** `onInput` runs when there are bytes, and were none before. */
  listen(onInput: () => void): Typed {
    const typed = new Typed(onInput, () => this.#onTaken());
    this.#listeners.push(typed);
    return typed;
  }

  /** Once every port listens. The terminal is raw until `close`. */
  open(): void {
    this.#terminal = new Terminal((bytes) => this.#deliver(bytes));
  }

  close(): void {
    this.#terminal?.close();
    this.#terminal = undefined; // a port may still make room
  }

  /**
   * Takes all or nothing. While every port is behind, whoever types has to wait; one that alone is
   * behind must not keep the others waiting, and loses what comes meanwhile and does not fit.
   */
  #deliver(bytes: Uint8Array): number {
    this.#stalled = this.#listeners.every((typed) => !typed.isEmpty);
    if (this.#stalled) return 0;
    for (const typed of this.#listeners) typed.put(bytes);
    return bytes.length;
  }

  #onTaken(): void {
    if (!this.#stalled) return;
    this.#stalled = false;
    this.#terminal?.resume();
  }
}

/** What was typed and one port has not taken yet. */
export class Typed {
  readonly #onInput: () => void;
  readonly #onTaken: () => void;
  #bytes: Uint8Array = new Uint8Array(0);

  constructor(onInput: () => void, onTaken: () => void) {
    this.#onInput = onInput;
    this.#onTaken = onTaken;
  }

  get isEmpty(): boolean {
    return this.#bytes.length === 0;
  }

  put(bytes: Uint8Array): void {
    if (this.isEmpty) {
      this.#bytes = bytes;
      this.#onInput();
    } else if (this.#bytes.length + bytes.length <= WAITING_BYTES_MAX) {
      this.#bytes = Buffer.concat([this.#bytes, bytes]);
    }
  }

  peek(): Uint8Array {
    return this.#bytes;
  }

  /** The port has taken the first `count` bytes. More may come before this returns. */
  drop(count: number): void {
    this.#bytes = this.#bytes.subarray(count);
    if (this.isEmpty) this.#onTaken();
  }
}
