import fc from 'fast-check';
import { expect, test } from 'vitest';
import { RangeAllocator } from '../../../src/vmm/allocator.ts';

const KIB = 1024;
const MIB = 1024 * KIB;

test('ranges are given out from the top down, on their steps', () => {
  const allocator = new RangeAllocator({ gpa: 2 ** 32, sizeBytes: 0xff_ffef_0000 - 2 ** 32 });
  const taken = [1, 2, 3].map(() => allocator.allocate(512 * KIB, 8 * MIB));
  expect(taken).toEqual([0xff_ff80_0000, 0xff_ff00_0000, 0xff_fe80_0000]);
});

test('no two ranges overlap, and all lie aligned in the window, until there is none left', () => {
  const request = fc.record({ sizeLog2: fc.nat(14), alignLog2: fc.nat(16) });
  const window = fc.record({ gpa: fc.nat(2 ** 40), sizeBytes: fc.nat(2 ** 18) });
  fc.assert(
    fc.property(window, fc.array(request, { maxLength: 50 }), ({ gpa, sizeBytes }, requests) => {
      const allocator = new RangeAllocator({ gpa, sizeBytes });
      let end = gpa + sizeBytes;
      for (const { sizeLog2, alignLog2 } of requests) {
        const [size, align] = [2 ** sizeLog2, 2 ** alignLog2];
        const at = allocator.allocate(size, align);
        if (at === undefined) {
          const fits = Math.floor((end - size) / align) * align >= gpa;
          expect(fits).toBe(false);
          continue;
        }
        expect(at % align).toBe(0);
        expect(at >= gpa && at + size <= end).toBe(true);
        expect(end - (at + size)).toBeLessThan(align);
        end = at;
      }
    }),
  );
});
