/** What an API document allows, whatever it is, neither ends the VMM nor makes it fail. */
import { join } from 'node:path';
import { beforeAll, expect, test } from 'vitest';
import { guestConfig } from '../compat/support/guests.ts';
import { VmmProcess } from '../compat/support/vmm-process.ts';
import { fuzz, schemathesis } from './schemathesis.ts';

/** As docs/api-compat.md lists them, without those that say that the host failed. */
const STATUSES = [200, 204, 400, 404, 405, 409, 429];

/** On a machine that does other things, too. */
const FUZZ_MS_MAX = 240_000;

const DOCUMENTS = ['api-2020.yaml', 'api-v53.yaml'];

let python: string;

beforeAll(async () => {
  python = await schemathesis();
}, 300_000);

const pathOf = (document: string) => join(import.meta.dirname, '../compat/fixtures', document);

/** Why what a document allows is refused, by what the refusal says. */
const REFUSALS: Readonly<Record<string, RegExp>> = {
  'there is no VM': /; VM is not created; VmNotCreated$/,
  'the VM is in another state': /; VM is (already created|not running)$|; Invalid transition: /,
  'it is not built': /; Not supported yet: /,
  'no document has this path': /^GET (\/schemathesis-probe\S*)?: Not Found$/,
  'the documents give no range: a type of the original has one, and JSON is exact below 2^53':
    /; \S+ is \S+, not an integer from /,
  'the documents say nothing of the form of addresses': /", not (a MAC|an IPv4) address such as /,
  'the documents do not say that the field is needed, which the original needs, too':
    /^PUT \S+: Failed to deserialize JSON; \S+ is missing$/,
  'what a limit does not know is refused, as by the original': / is unknown, only .+ can be given$/,
  'the file is not there': /; (Cannot open|Failed to open) .*ENOENT|No such file or directory/,
  'there is no device of that id': /; (Failed to find device corresponding|No device with id) /,
  'the original refuses it in these words, or at the boot': new RegExp(
    `; (${[
      ...['Memory size is misaligned', 'No memory zones found', 'Block queue size must be'],
      ...['Identifier .* is not unique', 'Trying to use a size that is not multiple of 2MiB'],
      ...['Max CPUs .* lower than boot CPUs', 'Too few physical address bits'],
      ...['Payload configuration is not bootable', 'VFIO device config must specify'],
      ...['Given PCI device ID', 'Number of PCI segments', 'Invalid resize request'],
      ...['Requested vCPUs exceed maximum', 'Missing virtio-balloon', 'Provided MTU'],
      ...['No disk path was specified', 'Length of virtio-fs tag', 'Invalid PCI segment id'],
      ...['Using .* requires using shared memory', '(Mask|IP) provided without'],
      ...['Queue size must be a power of 2', 'Failed resizing a memory zone'],
      ...['Impossible to resize guest memory'],
    ].join('|')})`,
  ),
  'it ended the process of the original': /; CPU topology has an empty part; /,
  'a VM has one such device, as today': /; Too many virtio-vsock devices; /,
  'no socket can have such a path': /; Length of the vsock socket's path /,
  'the original emptied the file': /; Disk image size is 0; /,
  'the guest could not map it': /; Size of the virtio-fs cache /,
  'a guest tells shares by their tags': /; Duplicated virtio-fs tag: /,
  'a socket leads to one device': /; Duplicated socket path: /,
  'there is no such device of the host': /; Cannot create a VFIO device; /,
};

const unexplained = (refusals: ReadonlySet<string>): string[] =>
  [...refusals].filter((text) => !Object.values(REFUSALS).some((known) => known.test(text)));

/** In a network of its own, for a config may ask for taps. */
const start = () => VmmProcess.start({ through: ['/usr/bin/unshare', '-n'] });

test.each(DOCUMENTS)('%s, without a VM', { timeout: FUZZ_MS_MAX }, async (document) => {
  await using vmm = await start();

  const { code, output, statuses, refusals } = await fuzz(python, pathOf(document), vmm.socket, [
    '/vmm.shutdown',
  ]);

  expect(unexplained(refusals)).toEqual([]);
  expect(code, output).toBe(0);
  expect([...statuses].filter((status) => !STATUSES.includes(status))).toEqual([]);
  expect((await vmm.get('vmm.ping')).status).toBe(200);
});

test.each(DOCUMENTS)('%s, with a VM that runs', { timeout: FUZZ_MS_MAX }, async (document) => {
  await using vmm = await start();
  await vmm.put('vm.create', guestConfig(vmm.folder));
  await vmm.put('vm.boot');

  const { code, output, statuses, refusals } = await fuzz(python, pathOf(document), vmm.socket, [
    ...['/vmm.shutdown', '/vm.delete', '/vm.shutdown'],
    // That of a VM in the dialect of today, with null for what is absent in the one of 2020.
    ...(document === 'api-2020.yaml' ? ['/vm.info'] : []),
  ]);

  expect(unexplained(refusals)).toEqual([]);
  expect(code, output).toBe(0);
  expect([...statuses].filter((status) => !STATUSES.includes(status))).toEqual([]);
  expect(await vmm.state()).toMatch(/Running|Paused/);
});
