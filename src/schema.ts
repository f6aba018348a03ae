/**
 * Schemas that say everything about a setting once: its type and range, its default, its name and
 * form on the command line, and which dialect of the API has it. Types, API checks, option grammar,
 * help and the OpenAPI document are all read off them.
 *
 * At run time none of these constructors does anything: what is needed then stands as plain data in
 * `vmm/schema-tables.ts`, of the form `Schema`.
 */
import { type Static, type TObject, type TProperties, type TSchema, Type } from '@sinclair/typebox';

/** How a field is written on the command line; what it does not say follows from the type. */
export interface Cli {
  /** It can't be given there. */
  hidden?: true;
  /** A key of 2020: taken, and no longer told of. */
  old?: true;
  /** The key, where it isn't the field's own name. */
  key?: string;
  /** Older keys that mean the same. */
  aliases?: readonly string[];
  /** Taken where the key is not given, although the API wants it named. */
  default?: string | number;
  /** The field beside this one whose value it takes where its own key is not given. */
  sameAs?: string;
  /** Keys without a value, and what each sets this field to. */
  flags?: Readonly<Record<string, string>>;
  /** Fields beside this one that its key sets, even with an empty value. */
  sets?: Readonly<Record<string, string>>;
  /** This object's fields are keys of the option itself, with this before their names. */
  prefix?: string;
  /** This object's fields stand in order with this between them. */
  separator?: string;
  /** Names of values that are not simply the API's name in lower case. */
  words?: Readonly<Record<string, string | number>>;
  unit?: 'size' | 'hex';
}

/** What JSON bodies have of their own. */
export interface Wire {
  /** Other names that are accepted for it. */
  aliases?: readonly string[];
  /** Only the dialect of 2020 has it, default and all; elsewhere it is an unknown field. */
  seed?: true;
  /** The default in the dialect of 2020, where today has none. */
  seedDefault?: string;
  /** A number of an open file: JSON can't carry one, so what stands there is dropped. */
  fd?: true;
  /** Answered only when true. */
  omitFalse?: true;
  /** Absent fields of this object are answered as null. */
  nulls?: true;
  /** Drawn at random where it is absent. */
  drawn?: true;
  /** Other spellings of values, each as its JSON. */
  spellings?: Readonly<Record<string, string>>;
  /** Kept and answered in lower case. */
  lowerCase?: true;
  /** A list of which today's dialect knows one element, written without the list. */
  single?: true;
}

interface Notes {
  cli?: Cli;
  wire?: Wire;
  default?: unknown;
  /** What the value must be, to end the sentence "mac is "zz", not …". */
  title?: string;
}

/** A schema as plain data: JSON Schema with our annotations. */
export interface Schema {
  type: 'object' | 'array' | 'string' | 'integer' | 'boolean';
  properties?: Readonly<Record<string, Schema>>;
  required?: readonly string[];
  additionalProperties?: false;
  items?: Schema;
  enum?: readonly string[];
  pattern?: string;
  minimum?: number;
  maximum?: number;
  title?: string;
  default?: unknown;
  cli?: Cli;
  wire?: Wire;
}

/** Absent and null mean the same, and nothing stands in for them. */
export const option = <T extends TSchema>(schema: T) => Type.Optional(schema);

export const bool = (fallback?: boolean, notes: Notes = {}) =>
  Type.Boolean({ ...(fallback !== undefined && { default: fallback }), ...notes });

/** Beyond 2^53 a JSON number isn't exact, so no field holds more. */
export const uint = (bits: 8 | 16 | 32 | 53, notes: Notes = {}) =>
  Type.Integer({ minimum: 0, maximum: 2 ** bits - 1, ...notes });

/** A size in bytes; the command line takes 512M for it. */
export const size = (notes: Notes = {}) =>
  uint(53, { ...notes, cli: { ...notes.cli, unit: 'size' } });

export const text = (notes: Notes = {}) => Type.String({ ...notes });

export const choice = <const T extends string>(values: readonly T[], notes: Notes = {}) =>
  Type.Unsafe<T>({ type: 'string', enum: values, ...notes });

/** The document of 2020 lists false and null, which YAML made of Off and Null. */
export const consoleMode = choice(['Off', 'Pty', 'Tty', 'File', 'Socket', 'Null'], {
  cli: { flags: { off: 'Off', null: 'Null', pty: 'Pty', tty: 'Tty' } },
  wire: { spellings: { false: 'Off', '"false"': 'Off', null: 'Null' } },
});

export const list = <T extends TSchema>(items: T, notes: Notes = {}) =>
  Type.Array(items, { ...notes });

/** For fields that went away after 2020. */
export const seedOnly = { cli: { hidden: true }, wire: { seed: true } } as const;

/** The same for fields that were keys of the command line, which scripts still use. */
export const seedKey = { cli: { old: true }, wire: { seed: true } } as const;

export const object = <T extends TProperties>(
  properties: T,
  notes: Notes & { additionalProperties?: false } = {},
): TObject<T> => Type.Object(properties, { ...notes });

export const mac = (wire: Wire = {}) =>
  text({
    wire: { ...wire, lowerCase: true },
    pattern: '^[0-9a-fA-F]{2}(:[0-9a-fA-F]{2}){5}$',
    title: 'a MAC address such as 12:34:56:78:90:ab',
  } as Notes);

const OCTET = '(25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9]?[0-9])';
export const ipv4 = (notes: Notes = {}) =>
  text({
    ...notes,
    pattern: `^${OCTET}(\\.${OCTET}){3}$`,
    title: 'an IPv4 address such as 192.168.249.1',
  } as Notes);

/** The least MTU that a network card should tell. VIRTIO 1.2 §5.1.4.1. */
export const MTU_MIN = 1280;

/** Where a PCI device sits; first in every object that has it. */
const place = {
  pci_segment: uint(16, { default: 0 }),
  pci_device_id: option(uint(8)),
};

/** What every device on the PCI bus has; `iommuFields` for those that can sit behind the IOMMU. */
export const pciFields = { id: option(text()), ...place };
export const iommuFields = {
  id: option(text()),
  iommu: bool(false, { wire: { omitFalse: true } }),
  ...place,
};

const bucket = (prefix: string) =>
  object(
    {
      size: uint(53),
      one_time_burst: option(uint(53)),
      refill_time: uint(53),
    },
    { cli: { prefix }, wire: { nulls: true } },
  );

/** Token buckets for bytes and for requests; `refill_time` in ms. */
export const RateLimiterConfig = object(
  { bandwidth: option(bucket('bw_')), ops: option(bucket('ops_')) },
  { cli: { prefix: '' }, wire: { nulls: true }, additionalProperties: false },
);
export type RateLimiterConfig = Static<typeof RateLimiterConfig>;
