/**
 * ACPI machine language as pure functions: each returns the bytes of one term, and they nest as ASL
 * does. ACPI 6.5 §20.2 unless said otherwise.
 *
 * Whatever does not fit its field is refused here: cut short, it would still make a loadable table.
 */
export type Aml = Uint8Array;

/** What may stand for a value: encoded bytes, an integer below 2^53, or a string. */
export type Term = Aml | number | string;

/** Numbers are single bytes: operation codes and flags. */
function bytes(...parts: (Aml | number)[]): Aml {
  const sizeBytes = parts.reduce<number>(
    (sum, part) => sum + (typeof part === 'number' ? 1 : part.length),
    0,
  );
  const all = new Uint8Array(sizeBytes);
  let at = 0;
  for (const part of parts) {
    if (typeof part === 'number') all[at++] = part;
    else {
      all.set(part, at);
      at += part.length;
    }
  }
  return all;
}

/** Characters 1 to 127: a NUL would end the string, and others have no meaning in AML. */
function ascii(text: string): Aml {
  const encoded = new Uint8Array(text.length);
  for (let i = 0; i < text.length; i++) {
    const code = text.charCodeAt(i);
    if (code === 0 || code > 0x7f) throw new RangeError(`Not ASCII: ${JSON.stringify(text)}`);
    encoded[i] = code;
  }
  return encoded;
}

/** Little-endian, in exactly `size` bytes. */
function int(value: number, size: number): Aml {
  if (!Number.isSafeInteger(value) || value < 0 || value >= 2 ** (8 * size))
    throw new RangeError(`Not an unsigned integer of ${size} bytes: ${value}`);
  const encoded = new Uint8Array(size);
  for (let i = 0, rest = value; i < size; i++, rest = Math.floor(rest / 256)) encoded[i] = rest;
  return encoded;
}

/** One of the few things that are numbered from 0. */
function ordinal(what: string, value: number, count: number): number {
  if (!Number.isInteger(value) || value < 0 || value >= count)
    throw new RangeError(`No ${what} ${value}: there are ${count}`);
  return value;
}

/** An integer in its shortest form, §20.2.3; 64 bits need a table of revision 2 or later. */
function integer(value: number): Aml {
  if (value <= 1) return int(value, 1); // ZeroOp and OneOp are their own encoding
  if (value < 0x100) return bytes(0x0a, int(value, 1));
  if (value < 0x1_0000) return bytes(0x0b, int(value, 2));
  if (value < 0x1_0000_0000) return bytes(0x0c, int(value, 4));
  return bytes(0x0e, int(value, 8));
}

function term(value: Term): Aml {
  if (value instanceof Uint8Array) return value;
  return typeof value === 'string' ? bytes(0x0d, ascii(value), 0) : integer(value);
}

const PATH = /^(\\|\^*)([A-Z_][A-Z0-9_]{0,3}(?:\.[A-Z_][A-Z0-9_]{0,3})*)$/;

/**
 * A name such as `\_SB.PCI0` or `^COM1`; segments are padded to four characters, §20.2.2. As a
 * value it stands for what it names.
 */
export function path(name: string): Aml {
  const [, prefix = '', rest = ''] = PATH.exec(name) ?? [];
  if (rest === '') throw new RangeError(`Not an ACPI name: ${JSON.stringify(name)}`);
  const segments = rest.split('.').map((segment) => ascii(segment.padEnd(4, '_')));
  const count = segments.length;
  const lead = count === 1 ? bytes() : count === 2 ? bytes(0x2e) : bytes(0x2f, int(count, 1));
  return bytes(ascii(prefix), lead, ...segments);
}

function segment(name: string): Aml {
  const encoded = path(name);
  if (encoded.length !== 4) throw new RangeError(`Not one segment of a name: ${name}`);
  return encoded;
}

/** §20.2.4: up to 63 in one byte; else a nibble and one to three bytes more. */
function packageLength(length: number): Aml {
  if (length < 1 << 6) return int(length, 1);
  const extra = [1, 2, 3].find((count) => length < 1 << (4 + 8 * count));
  if (extra === undefined) throw new RangeError(`AML package of ${length}`);
  return bytes((extra << 6) | (length & 0xf), int(length >> 4, extra));
}

/** What a package spans, after its length, which counts its own one to four bytes. */
function pkg(...parts: Aml[]): Aml {
  const body = bytes(...parts);
  let size = 1;
  while (packageLength(body.length + size).length > size) size++;
  return bytes(packageLength(body.length + size), body);
}

// Objects.

export const name = (at: string, value: Term): Aml => bytes(0x08, path(at), term(value));
export const scope = (at: string, ...body: Aml[]): Aml => bytes(0x10, pkg(path(at), ...body));
export const device = (at: string, ...body: Aml[]): Aml =>
  bytes(0x5b, 0x82, pkg(path(at), ...body));
export const packageOf = (...values: Term[]): Aml =>
  bytes(0x12, pkg(int(values.length, 1), ...values.map(term)));
export const buffer = (content: Aml): Aml => bytes(0x11, pkg(term(content.length), content));

const SERIALIZED = 1 << 3;
export const method = (at: string, args: number, ...body: Aml[]): Aml =>
  bytes(0x14, pkg(path(at), bytes(ordinal('argument count', args, 8) | SERIALIZED), ...body));

export const mutex = (at: string): Aml => bytes(0x5b, 0x01, path(at), 0);

const SPACE = { memory: 0, io: 1 } as const;
export const opRegion = (
  at: string,
  space: keyof typeof SPACE,
  base: number,
  sizeBytes: number,
): Aml => bytes(0x5b, 0x80, path(at), SPACE[space], term(base), term(sizeBytes));

const ACCESS = { byte: 1, word: 2, dword: 3, qword: 4 } as const;
const UPDATE = { preserve: 0, ones: 1, zeros: 2 } as const;
/** `units` are `[name, bits]` from bit 0 up; the name `null` skips bits. */
export const field = (
  region: string,
  access: keyof typeof ACCESS,
  update: keyof typeof UPDATE,
  ...units: [string | null, number][]
): Aml =>
  bytes(
    0x5b,
    0x81,
    pkg(
      path(region),
      bytes(ACCESS[access] | (UPDATE[update] << 5)),
      ...units.map(([at, bits]) => bytes(at === null ? 0 : segment(at), packageLength(bits))),
    ),
  );

/** `PNP0501` and the like: five bits a letter, then four hex digits, high byte first, §19.3.4. */
export function eisaId(id: string): Aml {
  if (!/^[A-Z]{3}[0-9A-F]{4}$/.test(id)) throw new RangeError(`Not an EISA id: ${id}`);
  const vendor = ascii(id.slice(0, 3)).reduce((sum, letter) => (sum << 5) | (letter - 0x40), 0);
  return bytes(0x0c, int((vendor << 16) | Number.parseInt(id.slice(3), 16), 4).reverse());
}

/** A buffer of 16 bytes; the first three groups are little-endian, §19.6.142. */
export function uuid(text: string): Aml {
  if (!/^[\da-f]{8}(-[\da-f]{4}){3}-[\da-f]{12}$/i.test(text))
    throw new RangeError(`Not a UUID: ${text}`);
  const groups = text.split('-').map((group) => Buffer.from(group, 'hex'));
  return buffer(bytes(...groups.map((group, i) => (i < 3 ? group.reverse() : group))));
}

// Statements and operators, §20.2.5.

export const arg = (index: number): Aml => bytes(0x68 + ordinal('argument', index, 7));
export const local = (index: number): Aml => bytes(0x60 + ordinal('local', index, 8));

const binary =
  (opcode: number) =>
  (left: Term, right: Term): Aml =>
    bytes(opcode, term(left), term(right));
export const equal = binary(0x93);
export const less = binary(0x95);
export const not = (value: Term): Aml => bytes(0x92, term(value));

/** An operator with a target; no target is how its value is used in place. */
const arithmetic =
  (opcode: number) =>
  (left: Term, right: Term, target: Aml = bytes(0)): Aml =>
    bytes(opcode, term(left), term(right), target);
export const add = arithmetic(0x72);
export const subtract = arithmetic(0x74);
export const shiftLeft = arithmetic(0x79);
export const bitAnd = arithmetic(0x7b);
export const bitOr = arithmetic(0x7d);

export const store = (value: Term, target: Aml): Aml => bytes(0x70, term(value), target);
export const notify = (target: string, value: Term): Aml => bytes(0x86, path(target), term(value));
export const call = (at: string, ...args: Term[]): Aml => bytes(path(at), ...args.map(term));
export const createDwordField = (source: Aml, offset: number, at: string): Aml =>
  bytes(0x8a, source, term(offset), path(at));
export const createQwordField = (source: Aml, offset: number, at: string): Aml =>
  bytes(0x8f, source, term(offset), path(at));

/** Waits as long as it takes. */
export const acquire = (at: string): Aml => bytes(0x5b, 0x23, path(at), 0xff, 0xff);
export const release = (at: string): Aml => bytes(0x5b, 0x27, path(at));

export const when = (condition: Term, ...body: Aml[]): Aml =>
  bytes(0xa0, pkg(term(condition), ...body));
/** Right after a `when`. */
export const otherwise = (...body: Aml[]): Aml => bytes(0xa1, pkg(...body));
export const repeatWhile = (condition: Term, ...body: Aml[]): Aml =>
  bytes(0xa2, pkg(term(condition), ...body));
export const returnValue = (value: Term): Aml => bytes(0xa4, term(value));

// Resources, §6.4.

/** §6.4.2.5: ports decoded on 16 bits, at a fixed base. */
export function ioPorts(base: number, count: number): Aml {
  if (base + count > 0x1_0000) throw new RangeError(`Ports beyond the last: ${base} + ${count}`);
  return bytes(0x47, 1, int(base, 2), int(base, 2), 1, int(count, 1));
}

const CONSUMER_LEVEL_HIGH = 0x01;
const CONSUMER_EDGE_HIGH = 0x03;
/** §6.4.3.6: one interrupt, its number a GSI. */
export const irq = (gsi: number, trigger: 'edge' | 'level' = 'edge'): Aml =>
  bytes(
    ...[0x89, int(6, 2), trigger === 'edge' ? CONSUMER_EDGE_HIGH : CONSUMER_LEVEL_HIGH],
    ...[1, int(gsi, 4)],
  );

const READ_WRITE = 1;
const CACHEABLE = 1 << 1;
/** §6.4.3.4: what the device itself decodes. */
export const memory32Fixed = (base: number, sizeBytes: number): Aml =>
  bytes(0x86, int(9, 2), READ_WRITE, int(base, 4), int(sizeBytes, 4));

/** §6.4.3.5, a fixed range of addresses; `unit` is the width of its fields in bytes. */
const addressSpace =
  (tag: number, unit: number, type: number, generalFlags: number, typeFlags: number) =>
  (base: number, size: number): Aml => {
    const fields = [0, base, base + size - 1, 0, size].map((value) => int(value, unit));
    return bytes(tag, int(3 + 5 * unit, 2), type, generalFlags, typeFlags, ...fields);
  };

const MIN_AND_MAX_FIXED = 0x0c; // and bit 0 clear: a bridge hands it on
const CONSUMED = MIN_AND_MAX_FIXED | 1;
const ENTIRE_IO_RANGE = 3;
/** What a bridge hands on to what lies behind it. */
export const busNumbers = addressSpace(0x88, 2, 2, MIN_AND_MAX_FIXED, 0);
export const ioWindow = addressSpace(0x88, 2, 1, MIN_AND_MAX_FIXED, ENTIRE_IO_RANGE);
export const memory32Window = addressSpace(0x87, 4, 0, MIN_AND_MAX_FIXED, READ_WRITE);
export const memory64Window = addressSpace(0x8a, 8, 0, MIN_AND_MAX_FIXED, READ_WRITE);
/** What the device itself decodes, above 4 GiB. */
export const memory64Fixed = addressSpace(0x8a, 8, 0, CONSUMED, READ_WRITE);
/** The same of RAM. */
export const memory64Cacheable = addressSpace(0x8a, 8, 0, CONSUMED, READ_WRITE | CACHEABLE);

/** A resource template for `_CRS`; the checksum 0 in its end tag means unchecked, §6.4.2.9. */
export const resources = (...descriptors: Aml[]): Aml => buffer(bytes(...descriptors, 0x79, 0));
