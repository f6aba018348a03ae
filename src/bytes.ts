/** Little-endian bytes, alignment and sizes: what tables, loaders and registers are made of. */

export const KIB = 1024;
export const MIB = 1024 * KIB;
export const GIB = 1024 * MIB;

/** `value` rounded down or up to a multiple of `step`, any positive integer; exact to 2^53. */
export const alignDown = (value: number, step: number): number => value - (value % step);
export const alignUp = (value: number, step: number): number => alignDown(value + step - 1, step);

/** `0x` and the digits, as addresses are printed. */
export const hex = (value: number | bigint): string => `0x${value.toString(16)}`;

/** What an access of 1 to 4 bytes reads where nobody answers. */
export const allOnes = (sizeBytes: number): number => 2 ** (8 * sizeBytes) - 1;

/**
 * Reads a file's structures. Every read is checked: one that does not lie wholly within the bytes
 * throws RangeError, which a loader reports as a truncated file.
 */
export class Reader {
  readonly #view: DataView;

  constructor(bytes: Uint8Array) {
    const { buffer, byteOffset, byteLength } = bytes;
    this.#view = new DataView(buffer, byteOffset, byteLength);
  }

  get sizeBytes(): number {
    return this.#view.byteLength;
  }

  u8(offset: number): number {
    return this.#view.getUint8(offset);
  }

  u16(offset: number): number {
    return this.#view.getUint16(offset, true);
  }

  u32(offset: number): number {
    return this.#view.getUint32(offset, true);
  }

  /** Above 2^53 the number is not exact, and no check that follows may need it to be. */
  u64(offset: number): number {
    return Number(this.#view.getBigUint64(offset, true));
  }

  bigU64(offset: number): bigint {
    return this.#view.getBigUint64(offset, true);
  }

  bytes(offset: number, sizeBytes: number): Uint8Array {
    if (offset + sizeBytes > this.#view.byteLength) throw new RangeError('Read beyond the end');
    return new Uint8Array(this.#view.buffer, this.#view.byteOffset + offset, sizeBytes);
  }
}

/** A structure of a fixed size, zero but for what is written; a write outside it is a bug. */
export class Writer {
  readonly bytes: Uint8Array;
  readonly #view: DataView;

  constructor(sizeBytes: number) {
    this.bytes = new Uint8Array(sizeBytes);
    this.#view = new DataView(this.bytes.buffer);
  }

  u8(offset: number, value: number): this {
    this.#view.setUint8(offset, value);
    return this;
  }

  u16(offset: number, value: number): this {
    this.#view.setUint16(offset, value, true);
    return this;
  }

  u32(offset: number, value: number): this {
    this.#view.setUint32(offset, value, true);
    return this;
  }

  u64(offset: number, value: number | bigint): this {
    this.#view.setBigUint64(offset, BigInt(value), true);
    return this;
  }

  /** Latin-1, without a terminator. */
  ascii(offset: number, text: string): this {
    return this.put(offset, Buffer.from(text, 'latin1'));
  }

  put(offset: number, bytes: Uint8Array): this {
    this.bytes.set(bytes, offset);
    return this;
  }
}
