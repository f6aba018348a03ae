/** What the strings of `platform`, which SMBIOS tells the guest, must be. */
import type { VmConfig } from '../../config.ts';
import type { Rule } from './rule.ts';

const FIELDS = [
  'system_serial_number',
  'system_manufacturer',
  'system_product_name',
  'system_version',
  'system_family',
  'system_sku_number',
  'chassis_asset_tag',
] as const;

/** A count of one byte: SMBIOS 3.2.0 §7.12. */
const OEM_STRINGS_MAX = 255;

/** The tables have 64 KiB of the guest's memory, with room for what is not text. */
const TEXT_BYTES_MAX = 60 * 1024;

/** Each string, and how the config calls it. */
function texts({ platform }: VmConfig): [at: string, text: string][] {
  const single = FIELDS.flatMap((field): [string, string][] => {
    const text = platform?.[field];
    return text === undefined ? [] : [[`platform.${field}`, text]];
  });
  const oem = (platform?.oem_strings ?? []).map((text, i): [string, string] => [
    `platform.oem_strings[${i}]`,
    text,
  ]);
  return [...single, ...oem];
}

/** A zero byte ends a string, and an empty one the whole list. */
const wholeStrings: Rule = (config) => {
  const [at, text = ''] =
    texts(config).find(([at, text]) => text.includes('\0') || (text === '' && at.endsWith(']'))) ??
    [];
  return at === undefined
    ? undefined
    : {
        text: 'SMBIOS string is empty or has a zero byte',
        remedy: `${at} is ${JSON.stringify(text)}: give a text without zero bytes`,
      };
};

const fewOemStrings: Rule = ({ platform }) => {
  const count = platform?.oem_strings?.length ?? 0;
  return count <= OEM_STRINGS_MAX
    ? undefined
    : {
        text: 'Too many SMBIOS OEM strings',
        remedy: `platform.oem_strings has ${count}: give at most ${OEM_STRINGS_MAX}`,
      };
};

const shortStrings: Rule = (config) => {
  const bytes = texts(config).reduce((sum, [, text]) => sum + Buffer.byteLength(text) + 1, 0);
  return bytes <= TEXT_BYTES_MAX
    ? undefined
    : {
        text: 'SMBIOS strings are too long',
        remedy: `The strings of platform have ${bytes} bytes: give at most ${TEXT_BYTES_MAX}`,
      };
};

export const SMBIOS_RULES: readonly Rule[] = [wholeStrings, fewOemStrings, shortStrings];
