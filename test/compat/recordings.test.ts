/**
 * Replays against a real process what was recorded of the original, as far as it concerns what is
 * built: the same class of status, the same JSON, the same texts; but for the differences below.
 */
import { readFileSync } from 'node:fs';
import { expect, test } from 'vitest';
import { type Replayed, replayAll } from './support/replay.ts';
import type { Answer } from './support/vmm-process.ts';

const { done, skipped } = await replayAll();

/** As clients see it: it went well, it failed, or there was no answer. */
function outcome({ status }: Answer): 'ok' | 'failed' | 'none' {
  if (status === undefined) return 'none';
  return status < 400 ? 'ok' : 'failed';
}

/** What is random, or told of this very process, is compared by its form alone. */
const blur = (body: unknown): unknown =>
  body === undefined
    ? undefined
    : JSON.parse(
        JSON.stringify(body)
          .replaceAll(/"mac":"2e(:[0-9a-fx]{2}){5}"/g, '"mac":"random"')
          .replaceAll(/"host_mac":"[0-9a-f:]{17}"/g, '"host_mac":"the tap’s"')
          .replaceAll(/"base":\d{11,}/g, '"base":"above 4 GiB"')
          .replaceAll(/"\/dev\/pts\/\d+"/g, '"a pty"')
          .replaceAll(/"build_version":"v[\d.]+","version":"[\d.]+","pid":\d+/g, '"version":"ours"')
          .replaceAll(/"features":\["io_uring","kvm"\]/g, '"features":["kvm"]'),
      );

const texts = (body: unknown): string[] => (Array.isArray(body) ? body.map(String) : []);

/** Ours may say more: in a text, which value it is, and after the last, what to do. */
const saysAsMuch = (theirs: readonly string[], ours: readonly string[]): boolean =>
  theirs.every((text, i) => ours[i]?.startsWith(text));

function isSame({ theirs, ours }: Replayed): boolean {
  if (outcome(theirs) !== outcome(ours)) return false;
  if (outcome(ours) === 'none') return true;
  if (outcome(ours) === 'failed' && Array.isArray(theirs.body))
    return saysAsMuch(texts(theirs.body), texts(ours.body));
  return JSON.stringify(sorted(blur(theirs.body))) === JSON.stringify(sorted(blur(ours.body)));
}

/** Object keys in one order: theirs is a hash table's in places. */
function sorted(value: unknown): unknown {
  if (Array.isArray(value)) return value.map(sorted);
  if (typeof value !== 'object' || value === null) return value;
  const entries = Object.entries(value).sort(([a], [b]) => (a < b ? -1 : 1));
  return Object.fromEntries(entries.map(([key, entry]) => [key, sorted(entry)]));
}

interface Difference {
  /** As docs/api-compat.md has it, like the two texts below. */
  what: string;
  match: (step: Replayed) => boolean;
  ours: string;
  /** What is true of our answers besides. */
  holds?: (step: Replayed) => boolean;
  reason: string;
}

const named =
  (...names: string[]) =>
  ({ name }: Replayed): boolean =>
    names.includes(name);

const wireError = (body: unknown): string | undefined =>
  (body as { error?: string } | undefined)?.error;
const isWireError = ({ theirs }: Replayed): boolean => String(theirs.body).startsWith('{ "error"');
const isOk = ({ ours }: Replayed): boolean => outcome(ours) === 'ok';
/** It was understood; whether it can be done, is another matter. */
const isServed = ({ ours }: Replayed): boolean =>
  ours.status !== undefined && wireError(ours.body) === undefined;
const isRefused = ({ ours }: Replayed): boolean => [400, 409].includes(ours.status ?? 0);

/** The first row that matches a step counts. */
const DIFFERENCES: readonly Difference[] = [
  {
    what: 'vmm.shutdown of a VM that is created and not booted (2020)',
    match: named('vmm.shutdown with a config that is not booted'),
    ours: 'The process ends, 200',
    holds: isOk,
    reason: 'the original answered 500 and lived on',
  },
  {
    what: 'vm.boot of a paused VM (2020)',
    match: named('boot while paused (acts as resume)'),
    ours: '405; the VM stays paused',
    holds: ({ ours }) => ours.status === 405,
    reason: 'v53 refuses it, and so does the API document',
  },
  {
    what: 'The state after that boot (2020)',
    match: ({ file, name }) => file === '2020' && name === 'info after it',
    ours: 'Paused',
    holds: ({ ours }) => (ours.body as { state?: string }).state === 'Paused',
    reason: 'the boot was refused',
  },
  {
    what: 'A verb that hung or killed the original',
    match: ({ theirs, ours }) => outcome(theirs) === 'none' && outcome(ours) !== 'none',
    ours: 'An answer',
    reason: 'no verb hangs, and no request ends the process',
  },
  {
    what: 'A repeated header Content-Length with another value',
    match: named('Content-Length twice', 'duplicate Content-Length'),
    ours: '400',
    holds: isRefused,
    reason: 'RFC 9112 §6.3: the end of the request is not known',
  },
  {
    what: 'Transfer-Encoding: chunked',
    match: ({ name, theirs }) => /^(Transfer-Encoding: )?chunked/.test(name) && !!theirs.status,
    ours: 'The body is taken',
    holds: isServed,
    reason: 'RFC 9112 §7.1; clients of Go send it where a length is not known',
  },
  {
    what: 'Another Transfer-Encoding (2020)',
    match: named('Transfer-Encoding gzip'),
    ours: '400',
    holds: isRefused,
    reason: 'as today: RFC 9112 §6.1, its body cannot be read',
  },
  {
    what: 'A failure after 100 Continue (2020)',
    match: ({ file, theirs }) => file === '2020' && theirs.status === 100,
    ours: 'The same interim answer, then a JSON array of texts',
    holds: ({ ours }) => ours.status === 100 && ours.text.includes('["Error from API"'),
    reason: 'failures are as today',
  },
  {
    what: 'vm.resize before the boot (2020)',
    match: named('resize before boot'),
    ours: 'Changes the config, 204',
    holds: isOk,
    reason: 'as today',
  },
  {
    what: 'vm.resize-disk of a VM that is created and not booted',
    match: named('created: vm.resize-disk'),
    ours: '405, `VM is not running`',
    holds: ({ ours }) => ours.status === 405,
    reason: 'there is no disk yet; the API document says 405',
  },
  {
    what: 'A second vsock device',
    match: named('add-vsock twice'),
    ours: '400, `Failed to validate config`, then the text of the original, field and value',
    holds: ({ theirs, ours }) => texts(ours.body)[3] === texts(theirs.body)[2],
    reason: 'what a config must not have, an addition must not bring',
  },
  {
    what: 'vm.remove-device of a function, not a device',
    match: ({ request, theirs }) =>
      /vm\.remove-device .*_virtio-pci-/s.test(String(request)) && theirs.status === 500,
    ours: '404, for that is the id of no device',
    holds: ({ ours }) => ours.status === 404,
    reason: 'only ids that a config can have name what is to be removed',
  },
  {
    what: 'What a strict parser of headers and lines refused',
    match: named(
      ...['leading blank line', 'header of 2000 bytes', 'header value with a colon and a space'],
      ...['unknown header without space', 'header with empty value, no space', 'header 1100'],
      ...['header 3000', 'Accept-Encoding: identity;q=0', 'Content-Length without a space'],
      ...['lower-case content-length', 'Expect: other', 'HTTP/1.0 with a body'],
    ),
    ours: 'Served',
    holds: isServed,
    reason: 'RFC 9112 §2.2 and §5 allow it; lines may have 8 KiB',
  },
  {
    what: 'An empty line and no request',
    match: named('empty request line'),
    ours: 'No answer; the next request is awaited',
    holds: ({ ours }) => ours.status === undefined,
    reason: 'RFC 9112 §2.2',
  },
  {
    what: 'A body, or a line, beyond a limit of the original',
    match: named(
      ...['Content-Length 5000000000', 'Content-Length i32 max', 'Content-Length i32 max + 1'],
      ...['huge Content-Length', 'u32 max Content-Length', 'request line 1025', '5 MB body'],
      'request line 2000',
    ),
    ours: 'Bodies have up to 4 MiB, lines 8 KiB; beyond, 400 says which limit',
    holds: ({ ours }) => outcome(ours) === 'failed',
    reason: 'a config with every device that a machine can hold fits',
  },
  {
    what: 'The path vmm.nmi',
    match: named('GET vmm.nmi', 'vmm.nmi (no such path)'),
    ours: 'That of vm.nmi, too',
    reason: 'the Rust crate cloud-hypervisor-client calls it so',
  },
  {
    what: 'false and null as modes of consoles',
    match: named('serial mode false (the YAML 1.1 reading of Off)'),
    ours: 'Off and Null',
    holds: isOk,
    reason: 'YAML reads the modes of the document of 2020 so',
  },
  {
    what: 'null where there is a default',
    match: named('create: null non-option', 'cpus null', 'net mac null', 'rng null', 'iommu null'),
    ours: 'Absent',
    holds: isOk,
    reason: 'null means absent wherever a field may be absent',
  },
  {
    what: 'A method that the path does not have',
    match: ({ ours }) => ours.status === 405 && ours.head.includes('\r\nAllow: '),
    ours: '405 with Allow, `["Method Not Allowed"]`',
    holds: ({ theirs }) => theirs.status === 400,
    reason: 'RFC 9110 §15.5.6; the original answered 400',
  },
  {
    what: 'A request that is not HTTP',
    match: (step) => isWireError(step) && wireError(step.ours.body) !== undefined,
    ours: '`{"error": "…"}`, valid JSON, the first sentence of theirs or more',
    holds: ({ theirs, ours }) => {
      const [first = ''] = String(theirs.body).slice('{ "error": "'.length).split('\n');
      const said = wireError(ours.body) ?? '';
      // 2020 said less, and took what is no line at all for a bad method or version.
      return said.startsWith(first.replace(/\.$/, '')) || said === 'Invalid request.';
    },
    reason: 'the original breaks its JSON by a line end, and its second sentence is not true here',
  },
  {
    what: 'Failures of 2020',
    match: ({ file, theirs, ours }) =>
      file === '2020' && outcome(theirs) === 'failed' && outcome(ours) === 'failed',
    ours: 'A JSON array of texts, as today',
    holds: ({ ours }) => Array.isArray(ours.body),
    reason:
      'the original printed Rust values; where it said `VmNotCreated`, that is among the texts',
  },
  {
    what: 'vmm.ping (2020)',
    match: ({ file, request }) => file === '2020' && String(request).includes('vmm.ping'),
    ours: 'More fields: build_version, pid, features',
    holds: ({ ours }) => ours.text.includes('"version":"'),
    reason: 'clients of 2020 read `version` alone',
  },
  {
    what: 'After a vm.create that failed',
    match: (step) =>
      named('info: the config stays')(step) ||
      (step.file === 'errors' && step.name === 'create again') ||
      texts(step.theirs.body).slice(1, 3).join() ===
        'The VM could not boot,Error creating console devices',
    ours: 'There is no VM, and the next vm.create is taken',
    holds: ({ name, ours }) => ours.status === (name.startsWith('info') ? 404 : 204),
    reason: 'the original kept what it had refused, and could do nothing with it',
  },
  {
    what: 'A verb without a VM',
    match: ({ ours }) => ours.status === 404 && texts(ours.body).includes('VmNotCreated'),
    ours: '404, `VM is not created`, `VmNotCreated`',
    holds: ({ theirs }) => outcome(theirs) === 'failed' || theirs.status === 200,
    reason: 'one cause, one text, and the one of 2020 besides; the API document says 404',
  },
  {
    what: 'vm.reboot of a VM that is created and not booted',
    match: named('created: vm.reboot'),
    ours: '405, `VM is not running`',
    holds: ({ ours }) => ours.status === 405,
    reason: 'there is a VM; the API document says 405',
  },
  {
    what: 'JSON that is malformed, or of wrong types',
    match: ({ theirs, ours }) =>
      texts(theirs.body)[0] === 'Failed to deserialize JSON' &&
      texts(ours.body)[0] === 'Failed to deserialize JSON',
    ours: '400; the second text names the field and the value, or where the JSON ends',
    holds: ({ ours }) => texts(ours.body).length === 2,
    reason: 'line and column of a body that a program made help nobody',
  },
  {
    what: 'An empty body where one is needed',
    match: named('create: empty body, Content-Length 0', 'create: no body'),
    ours: '400, `["Bad Request"]`',
    holds: ({ ours }) => texts(ours.body).join() === 'Bad Request',
    reason: 'v53 says so of other endpoints',
  },
  {
    what: 'JSON nested deeper than 128 levels',
    match: named('create: deep nesting'),
    ours: '400, `recursion limit exceeded`',
    holds: ({ ours }) => texts(ours.body)[1] === 'recursion limit exceeded',
    reason: 'the original has this limit, but for fields that it does not know',
  },
  {
    what: '1e9 as a size',
    match: named('create: 1e9 as size'),
    ours: 'A number is a number, however it is written',
    holds: ({ ours }) => ours.text.includes('memory.size is 1000000000'),
    reason: 'JSON has one kind of number',
  },
  {
    what: 'A repeated key',
    match: named('create: duplicate key', 'duplicate field'),
    ours: 'The last one counts',
    holds: isOk,
    reason: 'as everywhere in JavaScript',
  },
  {
    what: 'What 2020 required or did not know',
    match: named('cmdline null', 'pmem without size', 'vsock object', 'cpus float'),
    ours: 'Taken',
    holds: isOk,
    reason: 'later versions, and the first heirs of its clients, do so',
  },
  {
    what: 'A config of another generation',
    match: named('info after: top-level kernel (old dialect)', 'later-era payload field'),
    ours: 'Understood, and answered in its own dialect',
    holds: isOk,
    reason:
      'one server for three generations of clients; each original ignored what it did not know',
  },
  {
    what: 'Objects written as arrays',
    match: named('cpus as an array'),
    ours: '400',
    holds: isRefused,
    reason: 'a feature of the library of the original, in no document',
  },
  {
    what: 'A kernel or initramfs that cannot be opened or is none',
    match: named(
      ...['create: no kernel file', 'create: kernel is a directory', 'non-ASCII path'],
      ...['create: kernel is not a kernel', 'create: missing initramfs', 'create: kernel missing'],
    ),
    ours: '400 at vm.create, with the path; the original found it at vm.boot, 500',
    holds: (step) => isRefused(step) && /_tmp|\/tmp|\/k/.test(step.ours.text),
    reason: 'a VM that cannot boot is known as soon as it is created',
  },
  {
    what: 'Huge pages where the host has none',
    match: named('boot: hugepages not available'),
    ours: '500 at vm.boot, with how many bytes, in which pages, for which field',
    holds: (step) => isOk(step) || texts(step.ours.body).join().includes(' in huge pages of '),
    reason: 'they come without a mount of hugetlbfs, whose lack the original named',
  },
  {
    what: 'A backend, and RAM that nobody said to share',
    match: named('boot: vhost_user without shared', 'boot: fs not shared'),
    ours: 'The RAM is shared, and the backend looked for; `shared: false` is 400 at vm.create',
    holds: ({ ours }) => texts(ours.body).includes('Connection to socket failed'),
    reason: 'nothing else can be meant',
  },
  {
    what: 'An entropy source that cannot be opened or is none',
    match: named('create: rng missing'),
    ours: '400 at vm.create, in the words that the original has at vm.boot, and with the path',
    holds: (step) =>
      isRefused(step) &&
      saysAsMuch(texts(step.bootAnswer?.body).slice(2), texts(step.ours.body).slice(2)),
    reason: 'a VM that cannot boot is known as soon as it is created',
  },
  {
    what: 'A disk image that cannot be used',
    match: ({ name, ours }) =>
      /^create: .*(disk|nodisk)/.test(name) &&
      isRefused({ ours } as Replayed) &&
      /^(Cannot open disk path|Disk image type)/.test(texts(ours.body)[2] ?? ''),
    ours: '400 at vm.create: the text of the original, then field, value and remedy',
    holds: ({ theirs, ours }) =>
      theirs.status === 204 && /^disks\[\d\]\.\S+ is /.test(texts(ours.body)[3] ?? ''),
    reason: 'a VM that cannot boot is known as soon as it is created',
  },
  {
    what: 'A vsock socket, a tap or a file of persistent memory that cannot be had',
    match: ({ theirs, bootAnswer, ours }) =>
      theirs.status === 204 &&
      texts(ours.body)[2] === 'Error from device manager' &&
      saysAsMuch(texts(bootAnswer?.body).slice(2), texts(ours.body).slice(2)),
    ours: '400 or 409 at vm.create: the texts of the original, then field, value and remedy',
    holds: ({ ours }) => / is /.test(texts(ours.body).at(-1) ?? ''),
    reason: 'a VM that cannot boot is known as soon as it is created',
  },
  {
    what: 'Counters of what was never done',
    match: ({ name }) => /^counters/.test(name),
    ours: '0; the names are the same',
    holds: ({ theirs, ours }) => {
      const names = (body: unknown) =>
        JSON.stringify(sorted(body)).replaceAll(/:\d+(\.\d+)?(e\+\d+)?/g, '');
      return names(theirs.body) === names(ours.body);
    },
    reason: '18446744073709551615 does not fit the int64 of clients',
  },
  {
    what: 'Values that the original refused at vm.boot in the same words',
    match: ({ theirs, ours, bootAnswer }) =>
      theirs.status === 204 &&
      bootAnswer?.status === 500 &&
      texts(bootAnswer.body)
        .slice(3)
        .some((text) => texts(ours.body).some((said) => said.startsWith(text))),
    ours: '400 or 409 at vm.create: `Failed to validate config`, the text, field and value',
    holds: (step) => isRefused(step) && texts(step.ours.body)[2] === 'Failed to validate config',
    reason: 'a VM that cannot boot is known as soon as it is created',
  },
  {
    what: 'Values that the original took, crashed of, hung at, or refused in other words',
    match: (step) => step.theirs.status === 204 && isRefused(step),
    ours: '400 at vm.create; the last text names field and value',
    holds: ({ ours }) => / is | names | has |_tmp/.test(texts(ours.body).at(-1) ?? ''),
    reason: 'the API documents say 400; a process that is gone helps nobody',
  },
  {
    what: 'A socket for the console',
    match: named('create: console Socket'),
    ours: 'Taken',
    holds: isOk,
    reason: 'what a serial port can be plugged into, a console can',
  },
  {
    what: 'Consoles that cannot be opened as the config says',
    match: ({ name, theirs }) =>
      theirs.status === 500 && /^(create: (console|serial|landlock)|serial File)/.test(name),
    ours: '400, `Failed to validate config`, then the text that the original ends with, or its own',
    holds: (step) => isRefused(step) && texts(step.ours.body)[2] === 'Failed to validate config',
    reason: 'field and value are named; the process of the original ended at some',
  },
];

const rowOf = (step: Replayed): Difference | undefined =>
  DIFFERENCES.find(({ match }) => match(step));

const steps = done.map((step) => ({ ...step, same: isSame(step) }));

test.each(steps.filter(({ same }) => !same))('$file: $name: as the table says', (step) => {
  const row = rowOf(step);

  const { theirs, ours } = step;
  expect(row, JSON.stringify({ theirs, ours: ours.text })).toBeDefined();
  expect(row?.holds?.(step) ?? true, `${row?.what}: ${ours.text}`).toBe(true);
});

test('most steps are answered as they were recorded', () => {
  const same = steps.filter((step) => step.same);

  expect(same.length).toBeGreaterThan(200);
});

test.each(DIFFERENCES)('needed: $what', (row) => {
  expect(steps.some((step) => !step.same && rowOf(step) === row)).toBe(true);
});

test('docs/api-compat.md has the same differences', () => {
  const doc = readFileSync(new URL('../../docs/api-compat.md', import.meta.url), 'utf8');
  const [, table = ''] = doc.split('<!-- recordings -->\n\n');
  const cells = (line: string) =>
    line
      .slice(1, -1)
      .split('|')
      .map((cell) => cell.trim());
  const rows = table.split('\n\n')[0]?.split('\n').slice(2).map(cells);

  expect(rows).toEqual(DIFFERENCES.map(({ what, ours, reason }) => [what, ours, reason]));
});

test('what is left out is counted', () => {
  // Fewer when more is built: then lower the numbers.
  expect(Object.fromEntries(skipped)).toEqual({
    'says what was done, asks nothing': 28,
    'asks for an endpoint that is not served yet': 35,
    'holds bytes that the recording lost': 4,
    'was recorded in words, not in bytes': 67,
    'goes on where the connection of another step was': 2,
    'needs other connections to be open': 2,
    'runs a VM with what is not built': 10,
    'comes after a change that was left out': 19,
    'comes after a config that we refuse': 44,
    'asks for a deletion that the original could not do': 21,
    'concerns a VM whose making was not recorded': 151,
  });
});
