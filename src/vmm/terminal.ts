/**
 * The terminal that the VMM was started in, or what stands in its place, as the guest's keyboard.
 * It is raw while a VM has it, so that Ctrl-C reaches the guest.
 */
export class Terminal {
  readonly #deliver: (bytes: Uint8Array) => number;
  readonly #stdin = process.stdin;
  #undelivered: Uint8Array | undefined;

  /** `deliver` says how many bytes it took; the rest is offered again after `resume`. */
  constructor(deliver: (bytes: Uint8Array) => number) {
    this.#deliver = deliver;
    process.on('exit', this.#restore);
    if (this.#stdin.isTTY) this.#stdin.setRawMode(true);
    this.#stdin.on('data', this.#onData);
    this.#stdin.on('error', this.#onError);
    this.#stdin.resume(); // a VM before this one may have paused it
  }

  resume(): void {
    if (this.#undelivered) this.#onData(this.#undelivered);
    if (!this.#undelivered) this.#stdin.resume();
  }

  close(): void {
    this.#stdin.off('data', this.#onData);
    this.#stdin.off('error', this.#onError);
    this.#stdin.pause();
    process.off('exit', this.#restore);
    this.#restore();
  }

  #restore = (): void => {
    if (this.#stdin.isTTY) this.#stdin.setRawMode(false);
  };

  #onData = (bytes: Uint8Array): void => {
    const taken = this.#deliver(bytes);
    this.#undelivered = taken < bytes.length ? bytes.subarray(taken) : undefined;
    if (this.#undelivered) this.#stdin.pause();
  };

  /** A terminal that hung up types nothing more; the VM goes on. */
  #onError = (): void => {};
}
