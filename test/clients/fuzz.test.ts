/** What an API document allows, whatever it is, neither ends the VMM nor makes it fail. */
import { join } from 'node:path';
import { beforeAll, expect, test } from 'vitest';
import { guestConfig } from '../compat/support/guests.ts';
import { VmmProcess } from '../compat/support/vmm-process.ts';
import { fuzz, schemathesis } from './schemathesis.ts';

/** As docs/api-compat.md lists them, without those that say that the host failed. */
const STATUSES = [200, 204, 400, 404, 405, 409, 429];

const DOCUMENTS = ['api-2020.yaml', 'api-v53.yaml'];

let python: string;

beforeAll(async () => {
  python = await schemathesis();
}, 300_000);

const pathOf = (document: string) => join(import.meta.dirname, '../compat/fixtures', document);

/** In a network of its own, for a config may ask for taps. */
const start = () => VmmProcess.start({ through: ['/usr/bin/unshare', '-n'] });

test.each(DOCUMENTS)('%s, without a VM', async (document) => {
  await using vmm = await start();

  const { code, output, statuses } = await fuzz(python, pathOf(document), vmm.socket, [
    '/vmm.shutdown',
  ]);

  expect(code, output).toBe(0);
  expect([...statuses].filter((status) => !STATUSES.includes(status))).toEqual([]);
  expect((await vmm.get('vmm.ping')).status).toBe(200);
});

test.each(DOCUMENTS)('%s, with a VM that runs', async (document) => {
  await using vmm = await start();
  await vmm.put('vm.create', guestConfig(vmm.folder));
  await vmm.put('vm.boot');

  const { code, output, statuses } = await fuzz(python, pathOf(document), vmm.socket, [
    ...['/vmm.shutdown', '/vm.delete', '/vm.shutdown'],
    // That of a VM in the dialect of today, with null for what is absent in the one of 2020.
    ...(document === 'api-2020.yaml' ? ['/vm.info'] : []),
  ]);

  expect(code, output).toBe(0);
  expect([...statuses].filter((status) => !STATUSES.includes(status))).toEqual([]);
  expect(await vmm.state()).toMatch(/Running|Paused/);
});
