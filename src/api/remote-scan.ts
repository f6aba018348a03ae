/** The arguments of ch-remote: the socket, the subcommand, and what it is given. */
import { UsageError } from './cli-scan.ts';
import { COMMANDS, type Given, type RemoteCommand } from './remote-commands.ts';

export interface RemoteLine {
  /** Undefined if it is not given. */
  socket?: string;
  command: RemoteCommand;
  given: Given;
}

const MORE = "For more information, try '--help'.\n";
const USAGE = 'Usage: ch-remote [OPTIONS] <COMMAND>';

const mistake = (text: string, usage?: string): UsageError =>
  new UsageError(`error: ${text}\n\n${usage === undefined ? '' : `${usage}\n\n`}${MORE}`);

/** @throws UsageError as soon as an argument does not fit. */
export function scanRemote(args: readonly string[]): RemoteLine {
  const rest = [...args];
  const socket = takeOptions(rest, [{ name: 'api-socket' }], USAGE).get('api-socket');
  const name = rest.shift();
  const command = COMMANDS.find((command) => command.name === name);
  if (name === undefined)
    throw mistake("'ch-remote' requires a subcommand but one was not provided", USAGE);
  if (!command) throw mistake(`unrecognized subcommand '${name}'`, USAGE);
  return { ...(socket !== undefined && { socket }), command, given: givenTo(command, rest) };
}

function givenTo(command: RemoteCommand, rest: string[]): Given {
  const usage = usageOf(command);
  const before = takeOptions(rest, command.options, usage);
  const argument = command.argument && (rest.shift() ?? command.argument.fallback);
  const options = new Map([...before, ...takeOptions(rest, command.options, usage)]);
  if (rest[0] !== undefined) throw mistake(`unexpected argument '${rest[0]}' found`, usage);
  const lacking = command.options
    .filter(({ name, isRequired }) => isRequired && !options.has(name))
    .map(({ name }) => `--${name} <${name}>`);
  if (command.argument && argument === undefined) lacking.push(`<${command.argument.name}>`);
  if (lacking.length === 0) return { argument: argument ?? '', options };
  const list = lacking.map((one) => `\n  ${one}`).join('');
  throw mistake(`the following required arguments were not provided:${list}`, usage);
}

function usageOf({ name, argument, options }: RemoteCommand): string {
  const fallback = argument?.fallback !== undefined;
  const words = [
    ...(options.length > 0 ? ['[OPTIONS]'] : []),
    ...(argument ? [fallback ? `[${argument.name}]` : `<${argument.name}>`] : []),
  ];
  return ['Usage: ch-remote', name, ...words].join(' ');
}

/** Takes the options off that come first. */
function takeOptions(
  rest: string[],
  options: readonly { name: string }[],
  usage: string,
): Map<string, string> {
  const found = new Map<string, string>();
  while (rest[0]?.startsWith('-') && rest[0] !== '-') {
    const word = rest.shift() ?? '';
    const [, name = '', inline] = /^--([^=]+)(?:=(.*))?$/s.exec(word) ?? [];
    if (!options.some((option) => option.name === name))
      throw mistake(`unexpected argument '${name === '' ? word : `--${name}`}' found`, usage);
    if (found.has(name))
      throw mistake(`the argument '--${name} <${name}>' cannot be used multiple times`, usage);
    const value = inline ?? rest.shift();
    if (value === undefined)
      throw mistake(`a value is required for '--${name} <${name}>' but none was supplied`);
    found.set(name, value);
  }
  return found;
}
