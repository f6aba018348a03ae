/** What `ch-remote --help` and `--version` print: its launcher has both built in. */
import { COMPATIBLE_VERSION } from '../version.ts';
import { keysOf, wrap } from './help.ts';
import { COMMANDS, type RemoteCommand } from './remote-commands.ts';

export const REMOTE_VERSION_TEXT = `ch-remote ${COMPATIBLE_VERSION}\n`;

export const remoteHelpText = (): string =>
  [
    'Send a request to a running cloud-hypervisor VMM.',
    '',
    'Usage: ch-remote --api-socket <PATH> <COMMAND>',
    '',
    'What the VMM answers is printed. The exit status is 0 if it did what was asked, 1 if not, and 2',
    'if the command line is wrong. Configs are pairs key=value with commas between them, as on the',
    'command line of cloud-hypervisor.',
    '',
    'Options:',
    '  --api-socket <PATH>',
    ...wrap(['The API socket of the VMM'], ' '),
    '  -h, --help',
    ...wrap(['Print help'], ' '),
    '  -V, --version',
    ...wrap(['Print version'], ' '),
    '',
    'Commands:',
    ...COMMANDS.flatMap(entry),
    '',
  ].join('\n');

function entry({ name, help, argument, options }: RemoteCommand): string[] {
  const shown = argument?.fallback === undefined ? `<${argument?.name}>` : `[${argument.name}]`;
  return [
    `  ${[name, ...(argument ? [shown] : [])].join(' ')}`,
    ...wrap(help.split(' '), ' '),
    ...options.flatMap((option) =>
      wrap([`--${option.name} <${option.name}>: ${option.help}`], ' '),
    ),
    ...(argument?.schema ? wrap(keysOf(argument.schema), ',') : []),
  ];
}
