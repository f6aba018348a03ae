import { expect, test } from 'vitest';
import { checkOne } from '../../fuzz/wire.ts';

const SECONDS = Number(process.env['FUZZ_SECONDS'] ?? 3);

test('no stream of bytes, however cut, breaks the request parser', {
  timeout: 1000 * SECONDS + 5000,
}, () => {
  const start = performance.now();
  const first = Math.floor(Math.random() * 2 ** 31);
  let seed = first;
  for (; performance.now() - start < 1000 * SECONDS; seed++) {
    const before = performance.now();
    expect(() => checkOne(seed), `seed ${seed}`).not.toThrow();
    expect(performance.now() - before, `seed ${seed} takes too long`).toBeLessThan(1000);
  }
  expect(seed).toBeGreaterThan(first + 100);
});
