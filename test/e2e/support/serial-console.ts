/** A guest's console as a test reads it: everything printed, and a place up to which it is read. */
import type { Readable, Writable } from 'node:stream';
import { StringDecoder } from 'node:string_decoder';
import { withResolvers } from '../../../guest-images/command.ts';

interface Waiter {
  pattern: string | RegExp;
  found(text: string): void;
}

export class SerialConsole {
  readonly #input: Writable | undefined;
  #text = '';
  /** Everything before was matched, or belongs to a command that is over. */
  #readUpTo = 0;
  readonly #waiters = new Set<Waiter>();

  /** @param input where keys go; without it, the console can only be read. */
  constructor(output: Readable, input?: Writable) {
    const decoder = new StringDecoder('utf8');
    output.on('data', (chunk: Buffer) => this.#append(decoder.write(chunk)));
    this.#input = input;
  }

  /** All that was printed, with plain line ends. */
  get text(): string {
    return this.#text;
  }

  /** Types `text` as it is; end it with a line feed to enter it. */
  type(text: string): void {
    if (this.#input === undefined) throw new Error('This console can only be read');
    this.#input.write(text);
  }

  /**
   * Waits for text that was not matched before, and moves on past it.
   *
   * @returns what was printed from the last match up to the end of this one.
   * @throws ConsoleTimeoutError
   */
  async waitFor(pattern: string | RegExp, timeoutMs: number): Promise<string> {
    const { promise, resolve, reject } = withResolvers<string>();
    const waiter = { pattern, found: resolve };
    this.#waiters.add(waiter);
    const timer = setTimeout(() => {
      this.#waiters.delete(waiter);
      reject(new ConsoleTimeoutError(pattern, timeoutMs, this.#text));
    }, timeoutMs);
    this.#match();
    return promise.finally(() => clearTimeout(timer));
  }

  #append(text: string): void {
    this.#text += text.replaceAll('\r', '');
    this.#match();
  }

  #match(): void {
    for (const waiter of this.#waiters) {
      const end = matchEnd(this.#text.slice(this.#readUpTo), waiter.pattern);
      if (end === undefined) continue;
      const start = this.#readUpTo;
      this.#readUpTo += end;
      this.#waiters.delete(waiter);
      waiter.found(this.#text.slice(start, this.#readUpTo));
    }
  }
}

/** Where the first match of `pattern` ends. */
function matchEnd(text: string, pattern: string | RegExp): number | undefined {
  if (typeof pattern === 'string') {
    const at = text.indexOf(pattern);
    return at < 0 ? undefined : at + pattern.length;
  }
  const match = new RegExp(pattern.source, pattern.flags.replace('g', '')).exec(text);
  return match ? match.index + match[0].length : undefined;
}

/** How much of the console an error shows. */
const LINES_SHOWN = 20;

export class ConsoleTimeoutError extends Error {
  override readonly name = 'ConsoleTimeoutError';
  constructor(pattern: string | RegExp, timeoutMs: number, text: string) {
    const tail = text.trimEnd().split('\n').slice(-LINES_SHOWN).join('\n  ');
    super(`No ${pattern} on the console in ${timeoutMs} ms. Its last lines:\n  ${tail}`);
  }
}
