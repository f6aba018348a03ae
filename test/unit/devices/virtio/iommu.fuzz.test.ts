import { expect, test } from 'vitest';
import { explore } from '../../../fuzz/iommu.ts';

const seconds = Number(process.env['FUZZ_SECONDS'] ?? 2);
const seed = Number(process.env['FUZZ_SEED'] ?? Date.now() % 2 ** 31);

/** A machine with other work gets through few cases at a time. */
const TURNS_MAX = 10;
/** More seeds than a turn gets through. */
const TURN_SEEDS = 1_000_000;

const EXPECTED = [
  ...['attach', 'detach', 'map', 'unmap', 'probe'].map((type) => `${type}: 0`),
  ...['attach: waits', 'attach: 2', 'detach: waits', 'map: 8', 'map: 5', 'map: 7', 'unmap: 5'],
];

test(
  `nothing that a driver asks of an IOMMU breaks a rule (seed ${seed})`,
  async () => {
    const outcomes = new Set<string>();
    const isMissing = () => EXPECTED.some((outcome) => !outcomes.has(outcome));
    for (let turn = 0; turn === 0 || (turn < TURNS_MAX && isMissing()); turn++)
      for (const outcome of await explore(seconds, seed + turn * TURN_SEEDS)) outcomes.add(outcome);

    for (const outcome of EXPECTED) expect(outcomes).toContain(outcome);
  },
  TURNS_MAX * seconds * 1000 + 10_000,
);
