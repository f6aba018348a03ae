/**
 * A block of registers as data. What hardware leaves undefined is decided here, once: an access
 * that is not exactly one register's place and width reads all ones and writes nothing.
 */
import { strict as assert } from 'node:assert';
import { allOnes } from '../bytes.ts';
import type { AccessHandler } from '../native.ts';

export interface Register {
  name: string;
  /** A multiple of `sizeBytes`. */
  offset: number;
  sizeBytes: 1 | 2 | 4;
  /** Unsigned, of the register's width; so is what `write` gets. */
  read(): number;
  /** Read-only if absent. */
  write?(value: number): void;
}

export class RegisterFile implements AccessHandler {
  readonly #byOffset: (Register | undefined)[] = [];

  constructor(registers: readonly Register[]) {
    for (const register of registers) {
      const { name, offset, sizeBytes } = register;
      assert(offset % sizeBytes === 0 && !this.#byOffset[offset], `Register ${name} is misplaced`);
      this.#byOffset[offset] = register;
    }
  }

  read(offset: number, sizeBytes: number): number {
    const register = this.#byOffset[offset];
    return register?.sizeBytes === sizeBytes ? register.read() : allOnes(sizeBytes);
  }

  write(offset: number, sizeBytes: number, value: number): void {
    const register = this.#byOffset[offset];
    if (register?.sizeBytes === sizeBytes) register.write?.(value);
  }
}
