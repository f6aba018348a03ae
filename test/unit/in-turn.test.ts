import { expect, test } from 'vitest';
import { allOf, InTurn } from '../../src/in-turn.ts';
import type { Later } from '../../src/native.ts';

/** Work that begins when it may, and ends when it is told to. */
function work(log: string[], name: string) {
  let end = () => {};
  let fail = (_: Error) => {};
  const begin = (): Later<void> => {
    log.push(name);
    return new Promise<void>((resolve, reject) => {
      end = resolve;
      fail = reject;
    });
  };
  return { begin, end: () => end(), fail: (error: Error) => fail(error) };
}

const turn = () => new Promise((resolve) => setImmediate(resolve));

test('what ends at once is done within the call, and leaves nothing to wait for', () => {
  const turns = new InTurn();
  const log: string[] = [];
  expect(turns.run(() => void log.push('a'))).toBeUndefined();
  expect(turns.run(() => void log.push('b'))).toBeUndefined();
  expect(log).toEqual(['a', 'b']);
});

test('nothing begins before what was asked for earlier has ended, well or not', async () => {
  const turns = new InTurn();
  const log: string[] = [];
  const [a, b] = [work(log, 'a'), work(log, 'b')];
  const first = turns.run(a.begin);
  const second = turns.run(b.begin);
  const third = turns.run(() => void log.push('c'));
  await turn();
  expect(log).toEqual(['a']);

  a.fail(new Error('no'));
  await expect(first).rejects.toThrow('no');
  await turn();
  expect(log).toEqual(['a', 'b']);

  b.end();
  await Promise.all([second, third]);
  expect(log).toEqual(['a', 'b', 'c']);
  await turn();
  expect(turns.run(() => {})).toBeUndefined();
});

test('of several parts all are waited for, if any comes later', async () => {
  expect(allOf([undefined, undefined])).toBeUndefined();
  await expect(allOf([undefined, Promise.resolve()])).resolves.toBeUndefined();
  await expect(allOf([Promise.resolve(), Promise.reject(new Error('no'))])).rejects.toThrow('no');
});
