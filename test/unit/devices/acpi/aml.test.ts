import fc from 'fast-check';
import { expect, test } from 'vitest';
import * as aml from '../../../../src/devices/acpi/aml.ts';

/** Reads a package length back, §20.2.4: its value and how many bytes it takes. */
function packageLength(bytes: Uint8Array): { length: number; size: number } {
  const [lead = 0, ...rest] = bytes;
  const extra = lead >> 6;
  if (extra === 0) return { length: lead, size: 1 };
  const high = rest.slice(0, extra).reduce((sum, byte, i) => sum + byte * 256 ** i, 0);
  return { length: high * 16 + (lead & 0xf), size: 1 + extra };
}

test('a package length spans exactly what follows, itself included', () => {
  const edges = fc.constantFrom(0, 55, 56, 57, 58, 59, 60, 4080, 4085, 4090, 4091, 4092, 4096);
  fc.assert(
    fc.property(fc.oneof(edges, fc.nat(70_000)), (sizeBytes) => {
      const encoded = aml.scope('AAAA', new Uint8Array(sizeBytes));
      const { length, size } = packageLength(encoded.subarray(1));
      expect(length).toBe(encoded.length - 1);
      expect(length).toBe(size + 4 + sizeBytes);
    }),
  );
});

test('an integer takes the shortest form that holds it', () => {
  const sizes = [0, 1, 2, 0xff, 0x100, 0xffff, 0x1_0000, 0xffff_ffff, 2 ** 32, 2 ** 53 - 1].map(
    (value) => aml.returnValue(value).length - 1,
  );
  expect(sizes).toEqual([1, 1, 2, 2, 3, 3, 5, 5, 9, 9]);
});

test.each([
  ['\\_SB.PC00', '5c2e5f53425f50433030'],
  ['^COM1', '5e434f4d31'],
  ['A.B.C', '2f03415f5f5f425f5f5f435f5f5f'],
])('the name %s is encoded', (name, hex) => {
  expect(Buffer.from(aml.path(name)).toString('hex')).toBe(hex);
});

test.each([
  ['a name that is too long', () => aml.path('TOOLONG')],
  ['a name in small letters', () => aml.path('com1')],
  ['no name', () => aml.path('')],
  ['a name that begins with a digit', () => aml.path('1COM')],
  ['a field that is a path', () => aml.field('REGS', 'byte', 'ones', ['A.B', 8])],
  ['a negative integer', () => aml.name('AAAA', -1)],
  ['a fraction', () => aml.name('AAAA', 0.5)],
  ['an integer that is not exact', () => aml.name('AAAA', 2 ** 53)],
  ['a string with a NUL', () => aml.name('AAAA', 'a\0b')],
  ['a string that is not ASCII', () => aml.name('AAAA', 'é')],
  ['an EISA id in small letters', () => aml.eisaId('pnp0501')],
  ['a UUID that is short', () => aml.uuid('33db4d5b-1ff7-401c-9657-7441c03dd76')],
  ['eight arguments', () => aml.method('AAAA', 8)],
  ['an eighth argument', () => aml.arg(7)],
  ['a ninth local', () => aml.local(8)],
  ['256 elements', () => aml.packageOf(...new Array<number>(256).fill(0))],
  ['256 ports', () => aml.ioPorts(0, 256)],
  ['ports beyond the last', () => aml.ioPorts(0xffff, 2)],
  ['a 32-bit window that ends above 4 GiB', () => aml.memory32Window(0xffff_f000, 0x1001)],
  ['a window that is empty', () => aml.memory64Window(0, 0)],
  ['a GSI of 33 bits', () => aml.irq(2 ** 32)],
])('%s is refused', (_what, encode) => {
  expect(encode).toThrow(RangeError);
});
