/**
 * Replays every recorded command line: what was refused before anything was opened is refused with
 * the recorded text and status, and what went further is taken; but for the differences listed
 * here.
 */
import { expect, test } from 'vitest';
import { parseCommandLine } from '../../src/api/cli.ts';
import { UsageError } from '../../src/api/cli-scan.ts';
import { errorChain } from '../../src/errors.ts';
import { recording } from './recordings.ts';

interface Run {
  name: string;
  argv?: string[];
  exit: number | string;
  stdout: string;
  stderr: string;
}

const HOST = {
  memoryBytes: () => 2 ** 40,
  cpus: () => new Set([0]),
  numaNodes: () => new Set([0]),
};

const runs = recording<Run>('cli').filter(({ argv }) => argv?.[0] === 'cloud-hypervisor');

/** The chain of errors as it was printed, without the log line before it. */
function printedChain(stderr: string): string[] {
  const [, text = ''] = stderr.split('with the following chain of errors:\n');
  return text
    .split(/^ {2}\d+: /m)
    .slice(1)
    .map((line) => line.trimEnd());
}

/** What comes after the arguments are read: opening files, sockets and VMs. */
const LATER = [
  'Error booting VM',
  'Error restoring VM',
  'Error doing event monitor I/O',
  'Error creating log file',
  'Failed to start the VMM thread',
];

const isParseFailure = ({ stderr }: Run): boolean => {
  const [outermost] = printedChain(stderr);
  return outermost !== undefined && !LATER.includes(outermost);
};

function replay({ argv = [] }: Run): unknown {
  try {
    // The recorder wrote N for the number of a file that it had opened.
    return parseCommandLine(
      argv.slice(1).map((arg) => arg.replace('fd=N', 'fd=3')),
      HOST,
    );
  } catch (error) {
    return error;
  }
}

const OTHERWISE: Readonly<Record<string, string>> = {
  'boot=0': 'refused; the original ran a VM without a CPU',
  'api-socket path=': 'refused; the original served a socket without a name',
  'disk without path': 'refused before anything is opened, and the field is named',
  'landlock-rules without path': 'the missing key is named, not the two that there are',
};

test.each(runs.filter((run) => isParseFailure(run)))('$argv: exit 1', (run) => {
  const ours = errorChain(replay(run));

  const theirs = printedChain(run.stderr);
  expect(run.exit).toBe(1);
  if (run.name in OTHERWISE) expect(ours).not.toEqual(theirs);
  // Ours may go on to say which field has which value, and what to do.
  else expect(`${ours.join('\n')}\n`).toContain(theirs.join('\n'));
});

test.each(runs.filter(({ exit }) => exit === 2))('$argv: exit 2', (run) => {
  const ours = replay(run);

  expect(ours).toBeInstanceOf(UsageError);
  expect(ours).toMatchObject({ exitCode: 2, stream: 'stderr' });
  if (!run.stderr.startsWith('<')) expect((ours as Error).message).toBe(run.stderr);
});

test.each(runs.filter((run) => run.exit !== 2 && !isParseFailure(run) && !run.stdout))(
  '$argv goes further',
  (run) => {
    const ours = replay(run);

    if (run.name in OTHERWISE) expect(ours).toBeInstanceOf(Error);
    else expect(ours).not.toBeInstanceOf(Error);
  },
);

const told = runs.filter(({ stdout, exit }) => stdout !== '' && exit === 0);

test.each(told)('$argv: exit 0', (run) => {
  const ours = replay(run);

  const isHelp = run.stdout.startsWith('<the help');
  expect(ours).toMatchObject({ exitCode: 0, stream: 'stdout' });
  // One line of two words, for the parsers of existing clients; the original prints more.
  expect((ours as Error).message).toMatch(isHelp ? /^Launch / : /^\S+ v\d+\.\d+\.\d+\n$/);
});
