/** Work that may end later, one after another, in the order in which it was asked for. */
import type { Later } from './native.ts';

export class InTurn {
  /** Settles when all that was asked for is done; undefined if it is. */
  #last: Promise<void> | undefined;

  /** Begins within the call if nothing is under way, and ends when the work does. */
  run(work: () => Later<void>): Later<void> {
    const done = this.#last ? this.#last.then(work) : work();
    if (!done) return;
    const last: Promise<void> = done
      .catch(() => {}) // whoever asked for it hears of that
      .then(() => {
        if (this.#last === last) this.#last = undefined;
      });
    this.#last = last;
    return done;
  }
}

/** Resolves, if any of them comes later, when all have come. */
export function allOf(parts: readonly Later<void>[]): Later<void> {
  const later = parts.filter((part) => part instanceof Promise);
  return later.length > 0 ? Promise.all(later).then(() => {}) : undefined;
}
