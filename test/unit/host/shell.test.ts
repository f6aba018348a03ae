import { execFileSync } from 'node:child_process';
import { describe, expect, test } from 'vitest';
import { answerPattern, parseAnswer, typedCommand } from '../../e2e/support/shell.ts';

const MARK = 'm12ab';

/** What a shell prints that reads the typed line as the guest's does. */
function answerOf(command: string) {
  const printed = execFileSync('sh', { input: typedCommand(command, MARK), encoding: 'utf8' });
  const [match = ''] = answerPattern(MARK).exec(`noise\n${printed}more`) ?? [];
  return parseAnswer(match, MARK);
}

describe('the answer to a typed command', () => {
  test.each([
    ['echo hello', { code: 0, output: 'hello' }],
    ['printf hello', { code: 0, output: 'hello' }],
    ['true', { code: 0, output: '' }],
    ['false', { code: 1, output: '' }],
    ['echo one; echo; echo two >&2; exit 7', { code: 7, output: 'one\n\ntwo' }],
    ["echo 'it''s' \"$0\"", { code: 0, output: 'its sh' }],
    ['echo one\necho two', { code: 0, output: 'one\ntwo' }],
    ['cat', { code: 0, output: '' }],
  ])('%j', (command, expected) => {
    const silent = command.includes('>&2') ? `{ ${command}; } 2>&1` : command;
    expect(answerOf(silent)).toEqual(expected);
  });

  test('a mistake in the command does not end the shell that it is typed at', () => {
    expect(answerOf('exec 2>&1; eval "if"').code).not.toBe(0);
  });
});

test('the echo of a typed line is not taken for its answer', () => {
  expect(answerPattern(MARK).test(typedCommand('echo hello', MARK))).toBe(false);
});

test('a line longer than a terminal takes is refused', () => {
  expect(() => typedCommand(`echo ${'x'.repeat(4096)}`, MARK)).toThrow(
    'more than a terminal takes',
  );
});
