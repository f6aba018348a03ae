import { expect, test } from 'vitest';
import { apiConfig, startService } from './support/api-boot.ts';
import { Guest } from './support/guest.ts';

const KERNELS = ['vmlinux', 'vmlinuz'] as const;

test.each(KERNELS)('%s boots from the command line, answers, and powers off', async (kernel) => {
  await using guest = await Guest.boot({ kernel, cpus: 2 });

  expect(await guest.run('echo typed on the serial line')).toBe('typed on the serial line');
  expect(await guest.run('nproc')).toBe('2');
  const { stdout } = await guest.host.exec(`cat /proc/${guest.vmm.pid}/task/*/comm`);
  expect(stdout.split('\n')).toEqual(expect.arrayContaining(['vcpu0', 'vcpu1']));

  guest.console.type('poweroff\n');
  expect(await guest.exited).toBe(0);
});

test.each([
  { dialect: 'seed', kernel: 'vmlinuz' },
  { dialect: 'today', kernel: 'vmlinux' },
] as const)('$kernel boots over the API in the dialect $dialect', async (options) => {
  await using guest = await startService();
  const state = async () => (await guest.api.get('vm.info')).json as { state: string };

  expect((await guest.api.put('vm.create', await apiConfig(guest, options))).status).toBe(204);
  expect(await state()).toMatchObject({ state: 'Created' });
  expect((await guest.api.put('vm.boot')).status).toBe(204);
  expect(await state()).toMatchObject({ state: 'Running' });
  await guest.waitFor('guest: ready', 90_000);

  expect((await guest.api.put('vm.shutdown')).status).toBe(204);
  expect(await state()).toMatchObject({ state: 'Created' });
  expect((await guest.api.put('vm.delete')).status).toBe(204);
  expect((await guest.api.get('vm.info')).status).toBe(404);
  expect((await guest.api.put('vmm.shutdown')).status).toBe(200);
  expect(await guest.exited).toBe(0);
});

test('a reboot in the guest starts it anew in the same process', async () => {
  await using guest = await Guest.boot();
  const pid = guest.vmm.pid;

  guest.console.type('reboot\n');
  await guest.waitFor(/guest: init reached/, 90_000);

  const ping = (await guest.api.get('vmm.ping')).json;
  expect(ping).toMatchObject({ pid });
  expect((await guest.api.get('vm.info')).json).toMatchObject({ state: 'Running' });
});
