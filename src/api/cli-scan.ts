/** From arguments to options and their values, with the errors of usage that users know. */
import { type CliOption, OPTIONS, PAYLOADS, placeholder, SECCOMP_VALUES } from './cli-options.ts';

/**
 * What to print instead of running: what is wrong with how we were called, or what `--help` and
 * `--version` ask for, which goes to stdout and is no failure.
 */
export class UsageError extends Error {
  override readonly name = 'UsageError';
  readonly stream: 'stdout' | 'stderr';

  constructor(text: string, stream: 'stdout' | 'stderr' = 'stderr') {
    super(text);
    this.stream = stream;
  }

  get exitCode(): number {
    return this.stream === 'stdout' ? 0 : 2;
  }
}

/** Options in the order in which they came first, and every value of each. */
export type Scanned = ReadonlyMap<string, readonly string[]>;

const MORE = "For more information, try '--help'.\n";
const shown = (option: CliOption): string => `'--${option.name}${placeholder(option)}'`;

/**
 * Reads all arguments. `help` and `version` end the reading, for they win over what follows.
 *
 * @throws UsageError as soon as an argument does not fit.
 */
export function scan(args: readonly string[]): Scanned {
  const found = new Map<string, string[]>();
  const rest = [...args];
  for (let arg = rest.shift(); arg !== undefined; arg = rest.shift()) {
    for (const { option, inline } of optionsOf(arg, found)) {
      if (option.name === 'help' || option.name === 'version') return new Map([[option.name, []]]);
      const isRepeatable = option.takes === 'values' || option.name === 'v';
      if (found.has(option.name) && !isRepeatable)
        throw new UsageError(
          `error: the argument ${shown(option)} cannot be used multiple times\n\n` +
            `Usage: cloud-hypervisor [OPTIONS]\n\n${MORE}`,
        );
      const values = valuesOf(option, inline, rest, found);
      found.set(option.name, [...(found.get(option.name) ?? []), ...values]);
    }
  }
  requirePayload(found);
  requireKnownSeccomp(found);
  return found;
}

interface Use {
  option: CliOption;
  /** What stands behind `=`. */
  inline?: string;
}

/** One option, or several of one letter as in `-vvv`. */
function optionsOf(arg: string, found: Scanned): Use[] {
  const [, name, inline] = /^--([^=]+)(?:=(.*))?$/s.exec(arg) ?? [];
  const long = OPTIONS.find((option) => option.name === name && option.name.length > 1);
  if (long) return [{ option: long, ...(inline !== undefined && { inline }) }];
  const letters = /^-([^-].*)$/s.exec(arg)?.[1] ?? '';
  const short = [...letters].flatMap((letter) => OPTIONS.find((o) => o.short === letter) ?? []);
  if (short.length > 0 && short.length === letters.length)
    return short.map((option) => ({ option }));
  const unexpected = name === undefined ? arg : `--${name}`;
  throw new UsageError(
    `error: unexpected argument '${unexpected}' found\n\n${usage(found)}\n\n${MORE}`,
  );
}

/** Takes its values off the arguments that follow. */
function valuesOf(
  option: CliOption,
  inline: string | undefined,
  rest: string[],
  found: Scanned,
): string[] {
  if (option.takes === 'nothing') {
    // One for each time it is given.
    if (inline === undefined) return [''];
    throw new UsageError(
      `error: unexpected value '${inline}' for '--${option.name}' found; no more were expected\n\n` +
        `${usage(found)}\n\n${MORE}`,
    );
  }
  if (inline !== undefined) return [inline];
  const isValue = (arg: string | undefined): arg is string =>
    arg !== undefined && (arg === '-' || !arg.startsWith('-'));
  const values: string[] = [];
  while (isValue(rest[0]) && (values.length === 0 || option.takes === 'values'))
    values.push(rest.shift() ?? '');
  if (values.length > 0) return values;
  if (option.takes === 'optional value') return [''];
  throw new UsageError(
    `error: a value is required for ${shown(option)} but none was supplied\n\n${MORE}`,
  );
}

function usage(found: Scanned): string {
  const options = OPTIONS.filter(({ name }) => found.has(name));
  const order = [...found.keys()];
  const used = options
    .sort((a, b) => order.indexOf(a.name) - order.indexOf(b.name))
    .map((option) => (option.name === 'v' ? '-v...' : `--${option.name}${placeholder(option)}`));
  return `Usage: cloud-hypervisor ${used.length > 0 ? used.join(' ') : '[OPTIONS]'}`;
}

function requirePayload(found: Scanned): void {
  const needsPayload = OPTIONS.some(({ name, field }) => field !== undefined && found.has(name));
  if (!needsPayload || PAYLOADS.some((name) => found.has(name))) return;
  const payload = `<${PAYLOADS.map((name) => `--${name} <${name}>`).join('|')}>`;
  throw new UsageError(
    `error: the following required arguments were not provided:\n  ${payload}\n\n` +
      `${usage(found)} ${payload}\n\n${MORE}`,
  );
}

function requireKnownSeccomp(found: Scanned): void {
  const value = found.get('seccomp')?.[0] ?? 'true';
  if (SECCOMP_VALUES.some((known) => known === value)) return;
  throw new UsageError(
    `error: invalid value '${value}' for '--seccomp <seccomp>'\n` +
      `  [possible values: ${SECCOMP_VALUES.join(', ')}]\n\n${MORE}`,
  );
}
