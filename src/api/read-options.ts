/** An option's value, read by its schema, with the chain of errors that users know. */
import { VmmError } from '../errors.ts';
import type { Schema } from '../schema.ts';
import { OptionError, parseOptions } from './option-string.ts';

/** The texts around a cause, outermost first. */
export const failure = (cause: unknown, ...texts: string[]): VmmError =>
  texts.reduceRight<unknown>(
    (inner, text) => new VmmError('invalid-config', text, inner),
    cause,
  ) as VmmError;

/**
 * The options in an option's value.
 * @param what it is called in the error: `--disk`.
 * @throws VmmError 'invalid-config', also for the first that is required and not there.
 */
export function readOptions(what: string, schema: Schema, text: string): Record<string, unknown> {
  let options: Record<string, unknown>;
  try {
    options = parseOptions(schema, text);
  } catch (error) {
    if (!(error instanceof OptionError)) throw error;
    throw failure(error, `Error parsing ${what}`);
  }
  const lacking = schema.required?.find((field) => {
    const { default: fallback, wire } = schema.properties?.[field] ?? {};
    return options[field] === undefined && fallback === undefined && !wire?.drawn;
  });
  if (lacking === undefined) return options;
  const key = schema.properties?.[lacking]?.cli?.key ?? lacking;
  throw failure(undefined, `Error parsing ${what}: ${key} missing`);
}
