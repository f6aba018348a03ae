import { expect, test } from 'vitest';
import { explore } from '../../../fuzz/vhost-user.ts';

const seconds = Number(process.env['FUZZ_SECONDS'] ?? 2);
const seed = Number(process.env['FUZZ_SEED'] ?? Date.now() % 2 ** 31);

test(
  `nothing that a backend says breaks a rule (seed ${seed})`,
  async () => {
    const { refused, survived, tame } = await explore(seconds, seed);

    for (const count of [refused, survived, tame]) expect(count).toBeGreaterThan(0);
  },
  seconds * 1000 + 20_000,
);
