import { expect, test } from 'vitest';
import { explore } from '../../../fuzz/vfio-user.ts';

const seconds = Number(process.env['FUZZ_SECONDS'] ?? 2);
const seed = Number(process.env['FUZZ_SEED'] ?? Date.now() % 2 ** 31);

test(
  `nothing that a server says breaks a rule (seed ${seed})`,
  async () => {
    const { refused, tame } = await explore(seconds, seed);

    for (const count of [refused, tame]) expect(count).toBeGreaterThan(0);
  },
  seconds * 1000 + 30_000,
);
