import { expect, test } from 'vitest';
import { explore, replay } from '../../../fuzz/virtio-pci.ts';

const seconds = Number(process.env['FUZZ_SECONDS'] ?? 3);
const seed = Number(process.env['FUZZ_SEED'] ?? Date.now() % 2 ** 31);
const keep = process.env['FUZZ_KEEP'] === '1';

test('every case of the corpus still has its outcome', async () => {
  expect(await replay()).toEqual([]);
});

test(
  `nothing that a driver does breaks a rule of the registers (seed ${seed})`,
  async () => {
    expect(await explore(seconds, seed, keep)).toBeGreaterThan(0);
  },
  seconds * 1000 + 10_000,
);
