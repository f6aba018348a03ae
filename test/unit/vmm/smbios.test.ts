import { expect, test } from 'vitest';
import { Reader } from '../../../src/bytes.ts';
import { buildSmbios } from '../../../src/vmm/smbios.ts';

/** Walks the structures as Linux does: type to its strings, in order. */
function structures(): Map<number, string[]> {
  const { bytes } = buildSmbios();
  const read = new Reader(bytes);
  const found = new Map<number, string[]>();
  for (let at = 24; at < bytes.length; ) {
    const strings = at + read.u8(at + 1);
    const end = Buffer.from(bytes).indexOf('\0\0', strings, 'latin1');
    const text = Buffer.from(bytes.subarray(strings, end)).toString('latin1');
    found.set(read.u8(at), text === '' ? [] : text.split('\0'));
    at = end + 2;
  }
  return found;
}

test('the entry point is of SMBIOS 3.2.0, sums to 0 and spans the structures behind it', () => {
  const { gpa, bytes } = buildSmbios();
  const read = new Reader(bytes);

  expect(gpa).toBe(0xf_0000);
  expect(Buffer.from(bytes.subarray(0, 5)).toString()).toBe('_SM3_');
  expect([7, 8, 9].map((at) => read.u8(at))).toEqual([3, 2, 0]);
  expect(bytes.subarray(0, 24).reduce((sum, byte) => sum + byte, 0) & 0xff).toBe(0);
  expect(read.u32(12)).toBe(bytes.length - 24);
  expect(read.u64(16)).toBe(gpa + 24);
});

test('the machine is named as the original names itself', () => {
  expect([...structures()]).toEqual([
    [0, ['cloud-hypervisor', '0']],
    [1, ['Cloud Hypervisor', 'cloud-hypervisor']],
    [127, []],
  ]);
});
