import fc from 'fast-check';
import { expect, test } from 'vitest';
import { highestFree, lowestFree } from '../../../src/vmm/allocator.ts';
import type { GpaRange } from '../../../src/vmm/layout.ts';

const KIB = 1024;
const MIB = 1024 * KIB;

const HIGH = { gpa: 2 ** 32, sizeBytes: 0xff_ffef_0000 - 2 ** 32 };

test('ranges are found from the top down, on their steps', () => {
  const taken: GpaRange[] = [];
  const found = [1, 2, 3].map(() => {
    const [sizeBytes, alignBytes] = [512 * KIB, 8 * MIB];
    const gpa = highestFree(HIGH, taken, { sizeBytes, alignBytes }) ?? 0;
    taken.push({ gpa, sizeBytes });
    return gpa;
  });
  expect(found).toEqual([0xff_ff80_0000, 0xff_ff00_0000, 0xff_fe80_0000]);
});

test('what is given back is found again', () => {
  const wanted = { sizeBytes: MIB, alignBytes: MIB };
  const [a, b, c] = [2, 1, 0].map((n) => ({ gpa: 2 ** 32 + n * MIB, sizeBytes: MIB }));
  const window = { gpa: 2 ** 32, sizeBytes: 3 * MIB };
  const all = [a, b, c].filter((range) => range !== undefined);
  expect(highestFree(window, all, wanted)).toBeUndefined();
  expect(lowestFree(window, all, wanted)).toBeUndefined();
  for (const free of all) {
    const taken = all.filter((range) => range !== free);
    expect(highestFree(window, taken, wanted)).toBe(free.gpa);
    expect(lowestFree(window, taken, wanted)).toBe(free.gpa);
  }
});

test('what is found is free, aligned and in the window, and nothing is nearer to its end', () => {
  const range = fc.record({ gpa: fc.nat(300), sizeBytes: fc.integer({ min: 1, max: 60 }) });
  const wanted = fc.record({
    sizeBytes: fc.integer({ min: 1, max: 40 }),
    alignBytes: fc.constantFrom(1, 2, 8, 64),
  });
  fc.assert(
    fc.property(range, fc.array(range, { maxLength: 8 }), wanted, (window, taken, wanted) => {
      const { sizeBytes, alignBytes } = wanted;
      const isFree = (gpa: number) =>
        gpa % alignBytes === 0 &&
        taken.every((other) => gpa + sizeBytes <= other.gpa || other.gpa + other.sizeBytes <= gpa);
      const count = Math.max(0, window.sizeBytes - sizeBytes + 1);
      const free = Array.from({ length: count }, (_, i) => window.gpa + i).filter(isFree);
      expect(lowestFree(window, taken, wanted)).toBe(free[0]);
      expect(highestFree(window, taken, wanted)).toBe(free.at(-1));
    }),
  );
});
