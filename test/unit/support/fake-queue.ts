/** A virtqueue whose driver is the test: a device sees no difference, and no guest is needed. */
import type { Chain, Virtqueue } from '../../../src/native.ts';

class FakeChain implements Chain {
  readonly #readable: Uint8Array;
  readonly #room: Uint8Array;
  readonly #done: (bytes: Uint8Array) => void;
  readonly writableBytes: number;

  constructor(readable: Uint8Array, writableBytes: number, done: (bytes: Uint8Array) => void) {
    this.#readable = readable;
    this.writableBytes = writableBytes;
    // A driver may claim much more than it has RAM, by descriptors that overlap.
    this.#room = new Uint8Array(Math.min(writableBytes, 1 << 20));
    this.#done = done;
  }

  get readableBytes(): number {
    return this.#readable.length;
  }

  read(into: Uint8Array, offset = 0): number {
    const from = this.#readable.subarray(offset, offset + into.length);
    into.set(from);
    return from.length;
  }

  write(from: Uint8Array, offset = 0): number {
    const fits = from.subarray(0, Math.max(0, this.#room.length - offset));
    this.#room.set(fits, offset);
    return fits.length;
  }

  complete(writtenBytes: number): void {
    this.#done(this.#room.subarray(0, writtenBytes));
  }
}

export class FakeQueue implements Virtqueue {
  readonly #chains: Chain[] = [];
  #handler: () => void = () => {};
  #isPaused = false;
  /** Taken, and not given back. */
  outCount = 0;

  get waitingCount(): number {
    return this.#chains.length;
  }

  /** Offers a chain, kicks, and resolves with what the device wrote when it gives it back. */
  offer(readable: Uint8Array, writableBytes: number): Promise<Uint8Array> {
    return new Promise((resolve) => {
      const done = (bytes: Uint8Array) => {
        this.outCount--;
        resolve(bytes);
      };
      this.#chains.push(new FakeChain(readable, writableBytes, done));
      this.#handler();
    });
  }

  onKick(handler: () => void): void {
    this.#handler = handler;
  }

  take(): Chain | undefined {
    const chain = this.#isPaused ? undefined : this.#chains.shift();
    if (chain) this.outCount++;
    return chain;
  }

  async pause(): Promise<void> {
    this.#isPaused = true;
    while (this.outCount > 0) await new Promise((resolve) => setImmediate(resolve));
  }

  resume(): void {
    this.#isPaused = false;
    this.#handler();
  }

  close(): void {
    this.#chains.length = 0;
  }
}
