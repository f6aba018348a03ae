/** vDPA is not built: it is refused with its path and what to do, however it is asked for. */
import { spawnSync } from 'node:child_process';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { guestConfig } from './support/guests.ts';
import { chainOf, remote } from './support/remote.ts';
import { LAUNCHER, VmmProcess } from './support/vmm-process.ts';

const PATH = '/dev/vhost-vdpa-0';
const TEXT = `Not supported yet: vdpa[0] path ${PATH}`;
const INSTEAD =
  'in place of vdpa[0], have its device served by vhost-user, or give it to the guest by VFIO';
const DEVICE = { path: PATH, num_queues: 2, iommu: false, id: 'v', pci_segment: 0 };

let vmm: VmmProcess;

beforeEach(async () => {
  vmm = await VmmProcess.start();
});

afterEach(() => vmm[Symbol.asyncDispose]());

const create = (more: object = {}) => vmm.put('vm.create', { ...guestConfig(vmm.folder), ...more });

test('in a config: a boot is refused, and goes well without it', async () => {
  expect(await create({ vdpa: [DEVICE] })).toMatchObject({ status: 204 });
  const { status, body } = await vmm.put('vm.boot');
  expect([status, body]).toEqual([
    400,
    [
      'Error from API',
      'The VM could not boot',
      TEXT,
      `Create the VM without what is named; ${INSTEAD}`,
    ],
  ]);
  expect(await vmm.put('vm.delete')).toMatchObject({ status: 204 });
  expect(await create()).toMatchObject({ status: 204 });
  expect(await vmm.put('vm.boot')).toMatchObject({ status: 204 });
});

test('added to a VM that runs, over the API and by ch-remote: refused, and nothing changes', async () => {
  expect(await create()).toMatchObject({ status: 204 });
  expect(await vmm.put('vm.boot')).toMatchObject({ status: 204 });
  const before = (await vmm.get('vm.info')).body;

  const { status, body } = await vmm.put('vm.add-vdpa', DEVICE);
  const ended = await remote([
    ...['--api-socket', vmm.socket, 'add-vdpa'],
    `path=${PATH},num_queues=2,iommu=off,id=v,pci_segment=0`,
  ]);

  expect([status, body]).toEqual([
    400,
    [
      'Error from API',
      'The vDPA device could not be added to the VM',
      TEXT,
      `Leave it out; ${INSTEAD}`,
    ],
  ]);
  expect(ended).toMatchObject({ exit: 1, stdout: '' });
  expect(chainOf(ended).slice(2)).toEqual(body);
  expect((await vmm.get('vm.info')).body).toEqual(before);
});

test('on the command line: the process ends, and says so', () => {
  const { payload } = guestConfig(vmm.folder);
  const vm = ['--kernel', payload.kernel, '--console', 'off', '--memory', 'size=64M'];
  const args = [...vm, '--serial', `file=${join(vmm.folder, 'cli')}`, '--vdpa', `path=${PATH}`];

  const ended = spawnSync(LAUNCHER, args, { encoding: 'utf8', env: {}, timeout: 10_000 });

  expect(ended.status).toBe(1);
  expect(ended.stderr).toContain(TEXT);
  expect(ended.stderr).toContain(INSTEAD);
});
