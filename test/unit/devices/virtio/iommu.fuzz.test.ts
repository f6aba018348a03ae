import { expect, test } from 'vitest';
import { explore } from '../../../fuzz/iommu.ts';

const seconds = Number(process.env['FUZZ_SECONDS'] ?? 2);
const seed = Number(process.env['FUZZ_SEED'] ?? Date.now() % 2 ** 31);

test(
  `nothing that a driver asks of an IOMMU breaks a rule (seed ${seed})`,
  async () => {
    const outcomes = await explore(seconds, seed);

    for (const expected of [
      'attach: waits',
      'attach: 2',
      'detach: waits',
      'map: 8',
      'map: 5',
      'map: 7',
      'unmap: 5',
    ])
      expect(outcomes).toContain(expected);
    for (const type of ['attach', 'detach', 'map', 'unmap', 'probe'])
      expect(outcomes).toContain(`${type}: 0`);
  },
  seconds * 1000 + 10_000,
);
