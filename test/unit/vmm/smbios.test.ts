import { expect, test } from 'vitest';
import { Reader } from '../../../src/bytes.ts';
import { buildSmbios } from '../../../src/vmm/smbios.ts';

/** Walks the structures as Linux does: type to its strings, in order. */
function structures(platform: Parameters<typeof buildSmbios>[0] = {}): Map<number, string[]> {
  const { bytes } = buildSmbios(platform);
  const read = new Reader(bytes);
  const found = new Map<number, string[]>();
  for (let at = 24; at < bytes.length; ) {
    const strings = at + read.u8(at + 1);
    const end = Buffer.from(bytes).indexOf('\0\0', strings, 'latin1');
    const text = Buffer.from(bytes.subarray(strings, end)).toString();
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

test('every string of the config is told, in its place, and empty ones are as none', () => {
  const named = {
    ...{ system_manufacturer: 'Maker', system_product_name: 'Box', system_version: '7' },
    ...{ system_serial_number: 'S-1', system_family: 'Café', system_sku_number: 'K' },
    ...{ chassis_asset_tag: 'A-9', oem_strings: ['first', 'second=2'] },
  };

  expect([...structures(named)]).toEqual([
    [0, ['cloud-hypervisor', '0']],
    [1, ['Maker', 'Box', '7', 'S-1', 'K', 'Café']],
    [3, ['Maker', 'A-9']],
    [11, ['first', 'second=2']],
    [127, []],
  ]);
  const { bytes } = buildSmbios(named);
  const at = systemAt(bytes);
  // Manufacturer, product, version, serial number; SKU, family.
  expect([...bytes.subarray(at + 4, at + 8), ...bytes.subarray(at + 25, at + 27)]).toEqual([
    1, 2, 3, 4, 5, 6,
  ]);
  const chassis = Buffer.from(bytes).indexOf(Uint8Array.of(3, 22, 2, 0));
  expect([bytes[chassis + 4], bytes[chassis + 8]]).toEqual([1, 2]);
  expect([...structures({ system_version: '', chassis_asset_tag: '', oem_strings: [] })]).toEqual([
    ...structures(),
  ]);
});

test('a UUID has its first three fields little-endian, with dashes or without', () => {
  for (const system_uuid of [
    '00112233-4455-6677-8899-aabbccddeeff',
    '00112233445566778899AABBCCDDEEFF',
  ]) {
    const { bytes } = buildSmbios({ system_uuid });
    const at = systemAt(bytes) + 8;
    expect(Buffer.from(bytes.subarray(at, at + 16)).toString('hex')).toBe(
      '33221100554477668899aabbccddeeff',
    );
  }
});

/** Where the structure of type 1 begins: behind the entry point and type 0 with its strings. */
const systemAt = (bytes: Uint8Array): number => Buffer.from(bytes).indexOf('0\0\0') + 3;
