/**
 * Replays every recorded vm.create: what was refused for its form is refused, what was taken is
 * taken, and vm.info right after it gets the recorded answer; but for the differences listed here.
 */
import { expect, test } from 'vitest';
import { normalise, render } from '../../src/api/dialects.ts';
import { VmmError } from '../../src/errors.ts';
import { ramBytes } from '../../src/vmm/config/memory.ts';
import { recording, type Step } from './recordings.ts';

/** Where the body never was JSON, the HTTP server answers, and there is nothing to replay here. */
const NO_JSON = Symbol('no JSON');

function bodyOf({ request }: Step): unknown {
  if (typeof request?.body !== 'string') return request?.body ?? NO_JSON;
  try {
    return JSON.parse(request.body);
  } catch {
    return NO_JSON;
  }
}

const creates = (steps: Step[]) =>
  steps.flatMap((step, i) => {
    const body = bodyOf(step);
    const { method, path } = step.request ?? {};
    if (method !== 'PUT' || !path?.endsWith('vm.create') || body === NO_JSON) return [];
    const next = steps[i + 1];
    const info = next?.request?.path?.endsWith('vm.info') ? next.response?.body : undefined;
    return [{ name: step.name, body, status: step.response?.status, info }];
  });

/** The document of 2020 requires a command line; the binary took bodies without. */
const asSeed = (body: unknown) =>
  typeof body === 'object' && body !== null && !Array.isArray(body) && !('kernel' in body)
    ? { cmdline: { args: '' }, ...body }
    : body;

const today = ['lifecycle', 'errors'].flatMap((file) => creates(recording(file)));
const seed = creates(recording('2020'))
  .map((create) => ({ ...create, body: asSeed(create.body) }))
  .map((create) => ({ ...create, info: JSON.parse(String(create.info ?? 'null')) }));

const ACCEPTED_NOW: Readonly<Record<string, string>> = {
  'create: 1e9 as size': 'a number is a number, however it is written',
  'create: duplicate key': 'the last one wins, as everywhere in JSON.parse',
  'duplicate field': 'the last one wins, as everywhere in JSON.parse',
  'cpus float': '1.0 is an integer once it is parsed',
  'cmdline null': 'null means absent wherever a field may be absent',
  'create: null non-option': 'as above, also where there is a default',
  'cpus null': 'as above',
  'serial mode false (the YAML 1.1 reading of Off)': 'the document of 2020 has it, and means Off',
  'net mac null': 'as above',
  'rng null': 'as above',
  'iommu null': 'as above',
  'cpus 256': 'a question of the value, which is asked when the form is right',
  'pmem without size': 'optional since v0.7; the size of the file then',
  'devices without path': 'optional today; a question of the whole config',
  'create: invalid UTF-8': 'refused with the bytes, before there is a value',
  'invalid UTF-8 inside a string': 'refused with the bytes, before there is a value',
  'vsock object': 'what the first heirs of this dialect sent',
};

const REFUSED_NOW: Readonly<Record<string, string>> = {
  'cpus as an array': 'objects are objects',
  'create: memory 1 EiB': 'beyond 2^53 a JSON number is not exact',
};

test.each([...today, ...seed])('$name: $status', ({ name, body, status }) => {
  const replay = () => normalise(body);

  const refused = status === 400 ? !(name in ACCEPTED_NOW) : name in REFUSED_NOW;
  if (refused) expect(replay).toThrow(VmmError);
  else expect(replay).not.toThrow();
});

/** Addresses that were drawn at random are compared by their form alone. */
const blur = (info: unknown) =>
  JSON.stringify(info).replaceAll(/"mac":"2e(:[0-9a-fx]{2}){5}"/g, '"mac":"random"');

/** Whoever opens the pseudo-terminals names them; the config alone does not know. */
function withoutPtyNames(info: {
  config: Record<string, { mode?: string; file?: string } | null>;
}) {
  const config = structuredClone(info.config);
  for (const part of Object.values(config)) if (part?.mode === 'Pty') delete part.file;
  return { ...info, config };
}

const ANSWERED_OTHERWISE: Readonly<Record<string, string>> = {
  'create: top-level kernel (old dialect)': 'v53 knew it no more, and ignored it',
  'later-era payload field': 'v0.6 did not know it yet, and ignored it',
};

const isCreated = (info: unknown) =>
  typeof info === 'object' && info !== null && 'config' in info && 'state' in info;

const answered = [...today, ...seed].filter(
  ({ name, info }) => isCreated(info) && !(name in REFUSED_NOW),
);

test.each(answered)('info after $name', ({ name, body, info }) => {
  const { config, dialect } = normalise(body);
  const memoryActualSize = ramBytes(config.memory);
  const ours = render({ config, state: 'Created', memoryActualSize }, dialect);

  const same = blur(ours) === blur(withoutPtyNames(info));
  if (name in ANSWERED_OTHERWISE) expect(same).toBe(false);
  else expect(blur(ours)).toBe(blur(withoutPtyNames(info)));
});
