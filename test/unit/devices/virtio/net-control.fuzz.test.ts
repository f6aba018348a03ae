import { expect, test } from 'vitest';
import { explore } from '../../../fuzz/net-control.ts';

const seconds = Number(process.env['FUZZ_SECONDS'] ?? 2);
const seed = Number(process.env['FUZZ_SEED'] ?? Date.now() % 2 ** 31);

test(
  `nothing that a driver asks of a network card breaks a rule (seed ${seed})`,
  async () => {
    const outcomes = await explore(seconds, seed);

    for (const command of ['0000', '0200', '0300', '0400', '0500']) {
      expect(outcomes).toContain(`${command}: 0`);
      expect(outcomes).toContain(`${command}: 1`);
    }
  },
  seconds * 1000 + 10_000,
);
