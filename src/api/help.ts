/**
 * What `--help` and `--version` print. The launcher has both built in, and needs no node for them.
 */
import type { Schema } from '../schema.ts';
import { COMPATIBLE_VERSION } from '../version.ts';
import { SCHEMAS } from '../vmm/schema-tables.ts';
import { type CliOption, OPTIONS, placeholder, SECCOMP_VALUES } from './cli-options.ts';
import { kebab } from './option-string.ts';

export const VERSION_TEXT = `cloud-hypervisor ${COMPATIBLE_VERSION}\n`;

const COLUMNS = 100;
const INDENT = 10;

export const helpText = (): string =>
  [
    'Launch a cloud-hypervisor VMM.',
    '',
    'Usage: cloud-hypervisor [OPTIONS]',
    '',
    'An option marked ... may be given several times, or several values. Values are pairs',
    'key=value with commas between them; lists stand in [brackets], sizes may end in K, M or G.',
    '',
    'Options:',
    ...OPTIONS.filter(({ old }) => !old).flatMap(entry),
    '',
  ].join('\n');

function entry(option: CliOption): string[] {
  const short = option.short === undefined ? '    ' : `-${option.short}, `;
  const name = option.name === 'v' ? '-v...' : `${short}--${option.name}${placeholder(option)}`;
  const syntax = syntaxOf(option);
  return [
    `  ${name}`,
    ...wrap(option.help.split(' '), ' '),
    ...(syntax.length === 0 ? [] : wrap(syntax, ',')),
  ];
}

/** Fills lines, never breaking a word; `separator` ends all but the last. */
export function wrap(words: readonly string[], separator: string): string[] {
  const lines: string[] = [];
  for (const [i, word] of words.entries()) {
    const piece = i + 1 < words.length ? word + separator : word;
    const last = lines.at(-1);
    const fits = last !== undefined && (last + piece).trimEnd().length <= COLUMNS - INDENT;
    if (fits) lines[lines.length - 1] = last + piece;
    else lines.push(piece);
  }
  return lines.map((line) => `${' '.repeat(INDENT)}${line}`.trimEnd());
}

/** An option's keys, each with the form of its value. */
function syntaxOf({ name, field }: CliOption): string[] {
  if (name === 'seccomp') return [SECCOMP_VALUES.join('|')];
  if (name === 'restore') return keysOf(SCHEMAS.restore);
  if (field === undefined) return [];
  const schema = field
    .split('.')
    .reduce<Schema | undefined>((at, part) => at?.properties?.[part], SCHEMAS.vmCreate);
  return schema === undefined ? [] : keysOf(schema.items ?? schema);
}

export function keysOf({ properties = {} }: Schema, prefix = ''): string[] {
  return Object.entries(properties).flatMap(([name, schema]) => {
    const { hidden, old, key = name, flags, prefix: inner } = schema.cli ?? {};
    // What starts with an underscore is for developers.
    if (hidden || old || key.startsWith('_')) return [];
    if (inner !== undefined) return keysOf(schema, inner);
    return [flags ? Object.keys(flags).join('|') : `${prefix}${key}=${formOf(schema)}`];
  });
}

function formOf(schema: Schema): string {
  const { type, items, properties = {}, cli } = schema;
  if (type === 'boolean') return 'on|off';
  if (type === 'integer') return cli?.unit === 'size' ? 'SIZE' : cli?.unit === 'hex' ? 'HEX' : 'N';
  if (items) return `[${formOf(items)},...]`;
  if (type === 'string') return wordsOf(schema).join('|') || 'TEXT';
  const fields = Object.entries(properties).filter(([, field]) => !field.cli?.hidden);
  if (fields.every(([, field]) => field.type === 'boolean'))
    return fields.map(([name]) => name).join('|');
  return fields.map(([, field]) => formOf(field)).join(cli?.separator ?? '@');
}

const wordsOf = ({ enum: values = [], cli }: Schema): string[] =>
  cli?.words ? Object.keys(cli.words) : values.map(kebab);
