/** Messages that come by a Unix socket with descriptors, in whatever pieces it gives them. */
import { closeSync } from 'node:fs';

export interface Descriptors {
  /** Whoever takes the message closes them. */
  fds: number[];
}

export interface Protocol<M> {
  /**
   * The first message of `bytes`, and its length; undefined if it is not whole.
   * @throws Error if it is none.
   */
  parse(bytes: Uint8Array): { message: M; sizeBytes: number } | undefined;
  /** Most that one message brings. */
  fdsMax: number;
  /** That so many came with one. */
  tooMany(count: number): Error;
}

export class FdMessageReader<M extends object> {
  readonly #protocol: Protocol<M>;
  #bytes: Buffer = Buffer.alloc(0);
  #fds: number[] = [];

  constructor(protocol: Protocol<M>) {
    this.#protocol = protocol;
  }

  /**
   * The messages that are whole now. `fds` came with `bytes`, which the kernel ends at what was sent
   * with them: they are of the last message. They are ours from here on.
   * @throws Error of the protocol, and then every descriptor that came is closed.
   */
  push(bytes: Uint8Array, fds: readonly number[] = []): (M & Descriptors)[] {
    this.#bytes = Buffer.concat([this.#bytes, bytes]);
    const messages: (M & Descriptors)[] = [];
    let coming = [...fds];
    try {
      for (let one = this.#next(); one; one = this.#next()) messages.push(one);
      const last = this.#bytes.length > 0 ? this.#fds : (messages.at(-1)?.fds ?? this.#fds);
      last.push(...coming);
      coming = [];
      if (last.length > this.#protocol.fdsMax) throw this.#protocol.tooMany(last.length);
      return messages;
    } catch (error) {
      closeAll(coming);
      for (const { fds } of messages) closeAll(fds);
      this.close();
      throw error;
    }
  }

  /** What came of a message that will not be whole. */
  close(): void {
    closeAll(this.#fds.splice(0));
  }

  #next(): (M & Descriptors) | undefined {
    const parsed = this.#protocol.parse(this.#bytes);
    if (!parsed) return undefined;
    this.#bytes = this.#bytes.subarray(parsed.sizeBytes);
    return { ...parsed.message, fds: this.#fds.splice(0) };
  }
}

export const closeAll = (fds: readonly number[]): void => {
  for (const fd of fds) closeSync(fd);
};
