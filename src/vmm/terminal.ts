/**
 * The terminal that the VMM was started in, as the guest's keyboard. It is raw while a VM has it, so
 * that Ctrl-C reaches the guest; Node puts it back at exit, whatever ends the process.
 */
export class Terminal {
  readonly #deliver: (bytes: Uint8Array) => number;
  readonly #stdin = process.stdin;
  #undelivered: Uint8Array | undefined;

  /** `deliver` says how many bytes it took; the rest is offered again after `resume`. */
  constructor(deliver: (bytes: Uint8Array) => number) {
    this.#deliver = deliver;
    if (this.#stdin.isTTY) this.#stdin.setRawMode(true);
    this.#stdin.on('data', this.#onData);
    this.#stdin.on('error', this.#onError);
  }

  resume(): void {
    if (this.#undelivered) this.#onData(this.#undelivered);
    if (!this.#undelivered) this.#stdin.resume();
  }

  close(): void {
    this.#stdin.off('data', this.#onData);
    this.#stdin.off('error', this.#onError);
    this.#stdin.pause();
    if (this.#stdin.isTTY) this.#stdin.setRawMode(false);
  }

  #onData = (bytes: Uint8Array): void => {
    const taken = this.#deliver(bytes);
    this.#undelivered = taken < bytes.length ? bytes.subarray(taken) : undefined;
    if (this.#undelivered) this.#stdin.pause();
  };

  /** A terminal that hung up types nothing more; the VM goes on. */
  #onError = (): void => {};
}
