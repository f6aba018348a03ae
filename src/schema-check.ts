/**
 * Checks values against schemas in plain-data form, without a compiler: it knows the ten keywords
 * that our schemas use, and says in one sentence which field has which value, and what it takes.
 */
import type { Schema } from './schema.ts';

type Check = (schema: Schema, value: unknown, path: string) => string | undefined;

/** Undefined if the value is right. Nothing is coerced, filled in or taken away. */
export const refusal: Check = (schema, value, path) => CHECKS[schema.type](schema, value, path);

export const isObject = (value: unknown): value is Readonly<Record<string, unknown>> =>
  typeof value === 'object' && value !== null && !Array.isArray(value);

const CHECKS: Readonly<Record<Schema['type'], Check>> = {
  object: (schema, value, path) =>
    isObject(value) ? fields(schema, value, path) : wrong(path, value, 'an object'),
  array: (schema, value, path) =>
    Array.isArray(value) ? elements(schema, value, path) : wrong(path, value, 'a list'),
  string: (schema, value, path) => {
    if (typeof value !== 'string') return wrong(path, value, 'a string');
    const { enum: values, pattern } = schema;
    if (values && !values.includes(value)) return wrong(path, value, `one of ${values.join(', ')}`);
    if (pattern === undefined || new RegExp(pattern).test(value)) return undefined;
    return wrong(path, value, schema.title ?? `of the form ${pattern}`);
  },
  integer: ({ minimum = 0, maximum = Number.MAX_SAFE_INTEGER }, value, path) => {
    const fits = Number.isInteger(value) && Number(value) >= minimum && Number(value) <= maximum;
    return fits ? undefined : wrong(path, value, `an integer from ${minimum} to ${maximum}`);
  },
  boolean: (_, value, path) =>
    typeof value === 'boolean' ? undefined : wrong(path, value, 'true or false'),
};

function fields(
  { properties = {}, required = [], additionalProperties }: Schema,
  value: Readonly<Record<string, unknown>>,
  path: string,
): string | undefined {
  const at = (name: string) => (path === '' ? name : `${path}.${name}`);
  const missing = required.find((name) => value[name] === undefined);
  if (missing !== undefined) return `${at(missing)} is missing`;
  for (const [name, schema] of Object.entries(properties)) {
    const found = value[name] === undefined ? undefined : refusal(schema, value[name], at(name));
    if (found !== undefined) return found;
  }
  if (additionalProperties !== false) return undefined;
  const unknown = Object.keys(value).find((name) => !Object.hasOwn(properties, name));
  const known = Object.keys(properties).join(' or ');
  return unknown === undefined
    ? undefined
    : `${at(unknown)} is unknown, only ${known} can be given`;
}

function elements({ items }: Schema, value: readonly unknown[], path: string): string | undefined {
  if (items === undefined) return undefined;
  for (const [i, element] of value.entries()) {
    const found = refusal(items, element, `${path}[${i}]`);
    if (found !== undefined) return found;
  }
  return undefined;
}

/** A request may be megabytes long; what we say of it isn't. */
const SHOWN_MAX = 80;

function wrong(path: string, value: unknown, wanted: string): string {
  return `${path === '' ? 'The body' : path} is ${shown(value)}, not ${wanted}`;
}

function shown(value: unknown): string {
  if (Array.isArray(value)) return 'a list';
  if (isObject(value)) return 'an object';
  if (typeof value !== 'string') return String(value);
  return JSON.stringify(value.length > SHOWN_MAX ? `${value.slice(0, SHOWN_MAX)}…` : value);
}
