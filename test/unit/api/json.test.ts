import fc from 'fast-check';
import { expect, test } from 'vitest';
import { parseJson } from '../../../src/api/json.ts';
import { errorChain } from '../../../src/errors.ts';

/** What is said of a body that is refused. */
function refusal(body: Buffer): string[] {
  try {
    parseJson(body);
    return [];
  } catch (error) {
    return errorChain(error);
  }
}

test('what JSON can say comes through', () => {
  fc.assert(
    fc.property(fc.jsonValue(), (value) => {
      expect(parseJson(Buffer.from(JSON.stringify(value)))).toEqual(
        JSON.parse(JSON.stringify(value)),
      );
    }),
  );
});

test.each([
  ['levels beyond 128', Buffer.from('[{"a":'.repeat(65)), 'recursion limit exceeded'],
  ['bytes that are no UTF-8', Buffer.from('"\xff"', 'latin1'), 'The body is not UTF-8'],
])('%s are refused', (_name, body, text) => {
  expect(refusal(body)).toEqual(['Failed to deserialize JSON', text]);
});

test('brackets in strings are no levels', () => {
  const text = '"['.repeat(300);

  expect(parseJson(Buffer.from(JSON.stringify([text])))).toEqual([text]);
});

test('__proto__ is a key like another, and of a repeated key the last counts', () => {
  const parsed = parseJson(Buffer.from('{"__proto__":{"polluted":1},"a":1,"a":2}'));

  expect(Object.entries(parsed as object)).toEqual([
    ['__proto__', { polluted: 1 }],
    ['a', 2],
  ]);
  expect(parsed).not.toHaveProperty('polluted');
});
