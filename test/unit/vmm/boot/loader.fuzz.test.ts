import { expect, test } from 'vitest';
import { explore, replay } from '../../../fuzz/loader-fuzz.ts';

const seconds = Number(process.env['FUZZ_SECONDS'] ?? 5);
const seed = Number(process.env['FUZZ_SEED'] ?? Date.now() % 2 ** 31);
const keep = process.env['FUZZ_KEEP'] === '1';

test('every kernel of the corpus has the outcome that it had', () => {
  expect(replay()).toEqual([]);
});

test(
  `no kernel hangs a loader, escapes RAM or its file (seed ${seed})`,
  () => {
    expect(explore(seconds, seed, keep)).toBeGreaterThan(0);
  },
  seconds * 1000 + 10_000,
);
