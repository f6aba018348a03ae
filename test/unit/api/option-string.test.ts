import fc from 'fast-check';
import { expect, test } from 'vitest';
import { kebab, OptionError, parseOptions } from '../../../src/api/option-string.ts';
import type { Schema } from '../../../src/schema.ts';
import { SCHEMAS } from '../../../src/vmm/schema-tables.ts';

function optionSchema(name: string): Schema {
  const schema = SCHEMAS.vmCreate.properties?.[name];
  if (schema === undefined) throw new Error(`No field ${name}`);
  return schema.items ?? schema;
}

const parse = (name: string, text: string) => parseOptions(optionSchema(name), text);

test.each([
  ['memory', 'size=1G', { size: 2 ** 30 }],
  ['memory', 'shared=on,size=512M,shared=off', { size: 2 ** 29, shared: false }],
  ['memory', '', { size: 2 ** 29 }],
  ['memory', 'size=', { size: 2 ** 29 }],
  ['memory', 'hotplug_method=virtio-mem', { size: 2 ** 29, hotplug_method: 'VirtioMem' }],
  ['cpus', 'max=4', { boot_vcpus: 1, max_vcpus: 4 }],
  [
    'cpus',
    'boot=2,topology=1:2:1:1,affinity=[0@[0-2,5],1@[1]],features=amx',
    {
      boot_vcpus: 2,
      max_vcpus: 2,
      topology: { threads_per_core: 1, cores_per_die: 2, dies_per_package: 1, packages: 1 },
      affinity: [
        { vcpu: 0, host_cpus: [0, 1, 2, 5] },
        { vcpu: 1, host_cpus: [1] },
      ],
      features: { amx: true },
    },
  ],
  ['serial', 'off', { mode: 'Off' }],
  ['serial', 'file=/a,b', undefined],
  ['serial', 'file="/a,b"', { mode: 'File', file: '/a,b' }],
  ['serial', 'file=', { mode: 'File' }],
  ['serial', 'socket=/s', { mode: 'Socket', socket: '/s' }],
  ['console', 'tty,iommu=on', { mode: 'Tty', iommu: true }],
  ['debug_console', 'file=/d,iobase=0x402', { mode: 'File', file: '/d', iobase: 0x402 }],
  ['net', 'tap=,mac=,ip=,mask=', {}],
  ['fs', 'tag=t,sock=/s,cache_size=1G', { tag: 't', socket: '/s', cache_size: 1 << 30 }],
  ['net', 'fd=[3,4],num_queues=4', { fds: [3, 4], num_queues: 4 }],
  [
    'disks',
    'path=/a=b,bw_size=10,bw_refill_time=5,image_type=vhd,queue_affinity=[1@[2]]',
    {
      path: '/a=b',
      rate_limiter_config: { bandwidth: { size: 10, refill_time: 5 } },
      image_type: 'FixedVhd',
      queue_affinity: [{ queue_index: 1, host_cpus: [2] }],
    },
  ],
  [
    'rate_limit_groups',
    'id=g,bw_size=9,bw_one_time_burst=8,bw_refill_time=7,ops_size=6,ops_one_time_burst=5,ops_refill_time=4',
    {
      id: 'g',
      rate_limiter_config: {
        bandwidth: { size: 9, one_time_burst: 8, refill_time: 7 },
        ops: { size: 6, one_time_burst: 5, refill_time: 4 },
      },
    },
  ],
  [
    'platform',
    'oem_strings=[one,"two, ""words"""],uuid=x',
    { oem_strings: ['one', 'two, "words"'], system_uuid: 'x' },
  ],
  ['generic_vhost_user', 'virtio_id=fs', { device_type: 26 }],
  [
    'numa',
    'distances=[1@20,2@30]',
    {
      guest_numa_id: 0,
      distances: [
        { destination: 1, distance: 20 },
        { destination: 2, distance: 30 },
      ],
    },
  ],
])('%s %s', (name, text, expected) => {
  if (expected === undefined) expect(() => parse(name, text)).toThrow(OptionError);
  else expect(parse(name, text)).toEqual(expected);
});

test.each([
  ['memory', 'size=512m', 'unable to convert 512m for size'],
  ['memory', 'size=-1', 'unable to convert -1 for size'],
  ['memory', 'size=9007199254740992', 'unable to convert 9007199254740992 for size'],
  ['memory', 'shared=constructor', 'unable to convert constructor for shared'],
  ['memory', 'constructor=1', 'unknown option: constructor'],
  ['memory', 'zones=[]', 'unknown option: zones'],
  ['memory', 'size', 'invalid syntax: size'],
  ['cpus', 'boot=1K', 'unable to convert 1K for boot'],
  ['cpus', 'affinity=[0@[0-4294967295]]', 'unable to convert [0@[0-4294967295]] for affinity'],
  ['cpus', 'topology=1:1:1', 'unable to convert 1:1:1 for topology'],
  ['disks', 'queue_size=65536', 'unable to convert 65536 for queue_size'],
  ['disks', 'path=a]', 'invalid syntax: path=a]'],
  ['disks', 'path=]a[', 'invalid syntax: path=]a['],
  ['cpus', 'affinity=[0@1@2]', 'unable to convert [0@1@2] for affinity'],
])('%s %s is refused: %s', (name, text, message) => {
  expect(() => parse(name, text)).toThrow(new OptionError(message));
});

/** What the parser must undo: writes a value as the command line has it. */
function write(schema: Schema, value: unknown): string {
  const quote = (text: string) => `"${text.replaceAll('"', '""')}"`;
  const fields = Object.entries(schema.properties ?? {}).filter(([, field]) => !field.cli?.hidden);
  if (schema.type === 'boolean') return value ? 'on' : 'off';
  if (schema.type === 'integer')
    return schema.cli?.unit === 'hex' ? Number(value).toString(16) : String(value);
  if (schema.type === 'string') return schema.enum ? kebab(String(value)) : quote(String(value));
  if (Array.isArray(value) && schema.items)
    return `[${value.map((element) => write(schema.items as Schema, element)).join(',')}]`;
  const parts = fields.map(([name, field]) => write(field, (value as never)[name]));
  return parts.join(schema.cli?.separator ?? '@');
}

/** Values of a field such as the command line can give. */
function values(schema: Schema): fc.Arbitrary<unknown> {
  if (schema.type === 'boolean') return fc.boolean();
  if (schema.type === 'integer')
    return fc.integer({ min: schema.minimum ?? 0, max: schema.maximum ?? 0 });
  if (schema.type === 'string')
    return schema.enum ? fc.constantFrom(...schema.enum) : fc.string({ unit: 'grapheme' });
  if (schema.items) return fc.array(values(schema.items), { maxLength: 4 });
  const fields = Object.entries(schema.properties ?? {}).filter(([, field]) => !field.cli?.hidden);
  return fc.record(Object.fromEntries(fields.map(([name, field]) => [name, values(field)])));
}

/** Fields whose key and form follow from their name and type alone. */
const plainFields = Object.keys(SCHEMAS.vmCreate.properties ?? {}).flatMap((option) =>
  Object.entries(optionSchema(option).properties ?? {}).flatMap(([name, schema]) => {
    const { hidden, flags, prefix, sets, words } = schema.cli ?? {};
    const special = hidden || flags || sets || words || prefix !== undefined || schema.pattern;
    const isSwitches = name === 'features';
    return special || isSwitches ? [] : [{ option, name, schema, key: schema.cli?.key ?? name }];
  }),
);

test.each(plainFields)('--$option $name: what is written is read back', (field) => {
  fc.assert(
    fc.property(values(field.schema), (value) => {
      const text = `${field.key}=${write(field.schema, value)}`;

      expect(parse(field.option, text)).toMatchObject({ [field.name]: value });
    }),
    { numRuns: 30 },
  );
});

test('no text makes the parser do anything but answer or refuse', () => {
  const piece = fc.constantFrom('path', '=', ',', '[', ']', '"', '@', '0-3', 'queue_affinity', 'x');
  fc.assert(
    fc.property(fc.array(piece), (pieces) => {
      try {
        parse('disks', pieces.join(''));
      } catch (error) {
        expect(error).toBeInstanceOf(OptionError);
      }
    }),
  );
});
