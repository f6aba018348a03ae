/**
 * The values of command-line options: `path=/a,queue_affinity=[0@[0-3,8]],readonly=on`.
 *
 * Pairs stand between commas, which count for nothing within brackets or quotes. A quote within
 * quotes is written twice. Which keys there are, and what they take, the schema says.
 */
import { GIB, KIB, MIB } from '../bytes.ts';
import type { Cli, Schema } from '../schema.ts';

/** The user's mistake, with the key and the value in its message. */
export class OptionError extends Error {
  override readonly name = 'OptionError';
}

/** A key: where its value goes, and what of. */
interface Target {
  path: readonly string[];
  schema: Schema;
  /** The value that the key itself stands for, if it takes none. */
  flag?: string;
}

/**
 * Reads an option's value as the JSON object of the API that says the same: what is not given is
 * absent, unless only the API requires it.
 *
 * @throws OptionError for bad syntax, an unknown key, or a value that the key does not take.
 */
export function parseOptions(schema: Schema, text: string): Record<string, unknown> {
  const keys = new Map(targets(schema, [], ''));
  const result: Record<string, unknown> = {};
  for (const { path, schema: field } of keys.values())
    if (field.cli?.default !== undefined) put(result, path, field.cli.default);
  for (const pair of text.trim() === '' ? [] : split(text.trim(), ',')) {
    const [key = '', ...rest] = pair.split('=');
    const target = keys.get(key);
    if (target === undefined) throw new OptionError(`unknown option: ${key}`);
    if (target.flag === undefined && rest.length === 0)
      throw new OptionError(`invalid syntax: ${pair}`);
    apply(result, target, key, rest.join('='));
  }
  for (const [name, { cli }] of Object.entries(schema.properties ?? {}))
    if (cli?.sameAs !== undefined) result[name] ??= result[cli.sameAs];
  return result;
}

function apply(result: Record<string, unknown>, target: Target, key: string, raw: string): void {
  const { path, schema, flag } = target;
  if (flag !== undefined) {
    put(result, path, flag);
    return;
  }
  for (const [field, value] of Object.entries(schema.cli?.sets ?? {}))
    put(result, [...path.slice(0, -1), field], value);
  // An empty value gives a key back to its default, as scripts do with unset variables.
  put(result, path, raw === '' ? schema.cli?.default : convert(schema, key, raw));
}

/** Every key of an object's fields, those of the objects that it flattens among them. */
function targets(
  { properties = {} }: Schema,
  path: readonly string[],
  prefix: string,
): [string, Target][] {
  return Object.entries(properties).flatMap(([name, schema]): [string, Target][] => {
    if (schema.cli?.hidden) return [];
    const { key = name, aliases = [], flags = {}, prefix: inner }: Cli = schema.cli ?? {};
    const at = [...path, name];
    if (inner !== undefined) return targets(schema, at, inner);
    return [
      ...Object.entries(flags).map(([key, flag]): [string, Target] => [
        key,
        { path: at, schema, flag },
      ]),
      ...(Object.keys(flags).length > 0 ? [] : [key, ...aliases]).map((key): [string, Target] => [
        `${prefix}${key}`,
        { path: at, schema },
      ]),
    ];
  });
}

/** Sets what a path of fields leads to; undefined takes it away. */
function put(object: Record<string, unknown>, path: readonly string[], value: unknown): void {
  const [name, ...rest] = path;
  if (name === undefined) return;
  if (rest.length === 0) {
    if (value === undefined) delete object[name];
    else object[name] = value;
    return;
  }
  object[name] ??= {};
  put(object[name] as Record<string, unknown>, rest, value);
}

/** Cuts at a separator that is in no bracket and no quote; quotes stay on. */
function split(text: string, separator: string): string[] {
  const parts: string[] = [];
  let depth = 0;
  let quoted = false;
  let start = 0;
  for (let i = 0; i < text.length; i++) {
    const c = text[i];
    if (c === '"') quoted = !quoted;
    if (quoted) continue;
    if (c === '[') depth++;
    if (c === ']' && depth-- === 0) break;
    if (c !== separator || depth > 0) continue;
    parts.push(text.slice(start, i));
    start = i + 1;
  }
  if (quoted || depth !== 0) throw new OptionError(`invalid syntax: ${text}`);
  return [...parts, text.slice(start)];
}

/** Quotes are taken off wherever they stand; doubled within quotes, one stays. */
const unquote = (raw: string): string =>
  raw.replaceAll(/"((?:[^"]|"")*)"/g, (_, inner: string) => inner.replaceAll('""', '"'));

/** Without the brackets of a list. A list of one may lack them. */
const elements = (raw: string): string[] => {
  const inner = raw.startsWith('[') && raw.endsWith(']') ? raw.slice(1, -1) : raw;
  return inner === '' ? [] : split(inner, ',');
};

/** The value, or undefined if it isn't one. */
const CONVERT: Readonly<Record<Schema['type'], (schema: Schema, raw: string) => unknown>> = {
  boolean: (_, raw) => TOGGLES.get(unquote(raw)),
  string: stringValue,
  integer: (schema, raw) => inRange(schema, integerValue(schema, unquote(raw))),
  array: (schema, raw) => every(elements(raw).flatMap((one) => elementValues(schema.items, one))),
  object: objectValue,
};

function convert(schema: Schema, key: string, raw: string): unknown {
  const value = CONVERT[schema.type](schema, raw);
  if (value !== undefined) return value;
  throw new OptionError(`unable to convert ${unquote(raw)} for ${key}`);
}

const TOGGLES: ReadonlyMap<string, boolean> = new Map([
  ['on', true],
  ['true', true],
  ['off', false],
  ['false', false],
]);

function stringValue({ enum: values, pattern, cli }: Schema, raw: string): string | undefined {
  const value = unquote(raw);
  if (pattern !== undefined) return new RegExp(pattern).test(value) ? value : undefined;
  if (values === undefined) return value;
  const words = cli?.words ?? Object.fromEntries(values.map((word) => [kebab(word), word]));
  return Object.hasOwn(words, value) ? String(words[value]) : undefined;
}

export const kebab = (word: string): string =>
  word.replaceAll(/(?<=[a-z])[A-Z]/g, (c) => `-${c}`).toLowerCase();

const SUFFIXES: Readonly<Record<string, number>> = { K: KIB, M: MIB, G: GIB };

function integerValue({ cli }: Schema, text: string): number | undefined {
  const { words = {}, unit } = cli ?? {};
  if (Object.hasOwn(words, text)) return Number(words[text]);
  if (unit === 'hex') return /^(0x)?[0-9a-f]+$/i.test(text) ? Number.parseInt(text, 16) : undefined;
  const [, digits, suffix = ''] = /^(\d+)([KMG]?)$/.exec(text) ?? [];
  if (digits === undefined || (suffix !== '' && unit !== 'size')) return undefined;
  return Number(digits) * (SUFFIXES[suffix] ?? 1);
}

/** The bytes of a size such as 512M; undefined if it is none. */
export const sizeOf = (text: string): number | undefined =>
  integerValue({ type: 'integer', cli: { unit: 'size' } }, text);

const inRange = ({ minimum = 0, maximum = 0 }: Schema, value: number | undefined) =>
  value !== undefined && value >= minimum && value <= maximum ? value : undefined;

const every = (values: unknown[]): unknown[] | undefined =>
  values.includes(undefined) ? undefined : values;

/** More numbers than any list can need, and few enough to write out. */
const RANGE_MAX = 65_536;

/** One element, or all that a range such as `0-3` stands for. */
function elementValues(schema: Schema | undefined, raw: string): unknown[] {
  if (schema === undefined) return [undefined];
  const [, first, last] = /^(\d+)-(\d+)$/.exec(raw) ?? [];
  if (schema.type !== 'integer' || first === undefined || last === undefined)
    return [CONVERT[schema.type](schema, raw)];
  const count = Number(last) - Number(first) + 1;
  if (count < 1 || count > RANGE_MAX || inRange(schema, Number(last)) === undefined)
    return [undefined];
  return Array.from({ length: count }, (_, i) => Number(first) + i);
}

/** `1:2:1:4` by its separator; `amx` where all fields are switches; else a pair, `0@[0-3]`. */
function objectValue({ properties = {}, cli }: Schema, raw: string): unknown {
  const fields = Object.entries(properties).filter(([, field]) => !field.cli?.hidden);
  if (fields.every(([, field]) => field.type === 'boolean')) return switches(properties, raw);
  const { separator = '@' } = cli ?? {};
  const parts = split(raw, separator);
  if (parts.length !== fields.length) return undefined;
  const values = every(fields.map(([, field], i) => CONVERT[field.type](field, parts[i] ?? '')));
  return values && Object.fromEntries(fields.map(([name], i) => [name, values[i]]));
}

function switches(properties: Readonly<Record<string, Schema>>, raw: string): unknown {
  const names = elements(raw).map(unquote);
  if (!names.every((name) => Object.hasOwn(properties, name))) return undefined;
  return Object.fromEntries(names.map((name) => [name, true]));
}
