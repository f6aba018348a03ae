import { Ajv } from 'ajv';
import fc from 'fast-check';
import { expect, test } from 'vitest';
import { refusal } from '../../src/schema-check.ts';
import { SCHEMAS } from '../../src/vmm/schema-tables.ts';

const ajv = new Ajv().addVocabulary(['cli', 'wire']);
const oracle = ajv.compile(SCHEMAS.vmCreate);

const DISK = {
  ...{ iommu: false, pci_segment: 0, readonly: false, direct: false, num_queues: 1, queue_size: 2 },
  ...{ vhost_user: false, disable_io_uring: false, disable_aio: false, backing_files: false },
  ...{ sparse: true, image_type: 'Raw', lock_granularity: 'Full' },
};
const VALID = {
  cpus: {
    ...{ boot_vcpus: 1, max_vcpus: 1, kvm_hyperv: false, max_phys_bits: 46, nested: true },
    ...{ features: { amx: false }, core_scheduling: 'Vm', profile: 'Host' },
  },
  memory: {
    ...{ size: 2 ** 30, mergeable: false, hotplug_method: 'Acpi', shared: false, thp: true },
    ...{ hugepages: false, prefault: false, reserve: false },
  },
  disks: [{ ...DISK, rate_limiter_config: { ops: { size: 1, refill_time: 1 } } }],
  rng: { iommu: false, pci_segment: 0, src: '/r' },
  serial: { mode: 'Null' },
  console: { mode: 'Off', iommu: false, pci_segment: 0 },
  debug_console: { mode: 'Off', iobase: 0xe9 },
  ...{ pvpanic: false, iommu: false, watchdog: false, landlock_enable: false },
};

/** Every place in a value, as the keys that lead there. */
function places(value: unknown): (string | number)[][] {
  const entries = typeof value === 'object' && value !== null ? Object.entries(value) : [];
  return [[], ...entries.flatMap(([key, inner]) => places(inner).map((path) => [key, ...path]))];
}

function replaced(value: unknown, [key, ...rest]: (string | number)[], by: unknown): unknown {
  if (key === undefined) return by;
  const copy = structuredClone(value) as Record<string | number, unknown>;
  copy[key] = replaced(copy[key], rest, by);
  return copy;
}

test('the check and an independent JSON Schema validator agree on bodies with one part changed', () => {
  const odd = fc.constantFrom(-1, 0.5, 2 ** 53, 2 ** 16, 1 / 0, '1', 'Off', '', [], {}, true, null);
  const part = fc.oneof(odd, fc.jsonValue({ maxDepth: 2 }), fc.constant(undefined));
  fc.assert(
    fc.property(fc.constantFrom(...places(VALID)), part, (path, by) => {
      const body = replaced(VALID, path, by);

      expect(refusal(SCHEMAS.vmCreate, body, '') === undefined).toBe(oracle(body));
    }),
    { numRuns: 2000 },
  );
});

test.each([
  [
    { ...VALID, memory: { ...VALID.memory, size: '1' } },
    'memory.size is "1", not an integer from 0 to 9007199254740991',
  ],
  [
    { ...VALID, memory: { ...VALID.memory, size: 2 ** 53 } },
    'memory.size is 9007199254740992, not an integer from 0 to 9007199254740991',
  ],
  [
    { ...VALID, memory: { ...VALID.memory, size: 1 / 0 } },
    'memory.size is Infinity, not an integer from 0 to 9007199254740991',
  ],
  [{ ...VALID, memory: undefined }, 'memory is missing'],
  [
    { ...VALID, serial: { mode: 'null' } },
    'serial.mode is "null", not one of Off, Pty, Tty, File, Socket, Null',
  ],
  [{ ...VALID, iommu: null }, 'iommu is null, not true or false'],
  [{ ...VALID, disks: [DISK, { ...DISK, path: 1 }] }, 'disks[1].path is 1, not a string'],
  [{ ...VALID, disks: {} }, 'disks is an object, not a list'],
  [
    { ...VALID, disks: [{ ...DISK, rate_limiter_config: { bogus: 1 } }] },
    'disks[0].rate_limiter_config.bogus is unknown, only bandwidth or ops can be given',
  ],
  [[], 'The body is a list, not an object'],
  [{ ...VALID, rng: 'x'.repeat(10 ** 6) }, `rng is "${'x'.repeat(80)}…", not an object`],
])('what is wrong is said with field, value and what it takes', (body, sentence) => {
  expect(refusal(SCHEMAS.vmCreate, body, '')).toBe(sentence);
});
