import { setTimeout as sleep } from 'node:timers/promises';
import { expect, test } from 'vitest';
import { Guest } from './support/guest.ts';

const PAUSED_MS = 5000;

const uptimeMs = async (guest: Guest): Promise<number> =>
  1000 * Number((await guest.run('cut -d" " -f1 /proc/uptime')).trim());

test('a guest stands still while paused, gets NMIs, and ends at the power button', async () => {
  await using guest = await Guest.boot({ cpus: 2 });
  const before = await uptimeMs(guest);
  const started = Date.now();

  expect((await guest.api.put('vm.pause')).status).toBe(204);
  expect((await guest.api.get('vm.info')).json).toMatchObject({ state: 'Paused' });
  await sleep(PAUSED_MS);
  expect((await guest.api.put('vm.resume')).status).toBe(204);

  const passed = (await uptimeMs(guest)) - before;
  expect(passed).toBeLessThan(Date.now() - started - PAUSED_MS + 500);
  expect(await guest.run('dmesg | grep -ci "soft lockup" || true')).toBe('0');

  expect((await guest.api.put('vm.nmi')).status).toBe(204);
  await guest.eventually("grep NMI: /proc/interrupts | awk '{ exit !($2 > 0 && $3 > 0) }'");

  expect((await guest.api.put('vm.power-button')).status).toBe(204);
  expect(await guest.exited).toBe(0);
});

/** Packages, for Linux learns of threads from leaves that the emulated host's CPU model lacks. */
test('a guest sees four vCPUs as they were arranged', async () => {
  await using guest = await Guest.boot({ cpus: 4, topology: '1:2:1:2' });

  const cpuinfo = await guest.run('grep -E "^(physical id|cpu cores)" /proc/cpuinfo | sort -u');

  expect(await guest.run('nproc')).toBe('4');
  expect(cpuinfo.replace(/\s+/g, ' ')).toBe('cpu cores : 2 physical id : 0 physical id : 1');
});

test('vm.reboot starts the guest anew, from Running and from Paused', async () => {
  await using guest = await Guest.boot();

  for (const verb of ['vm.resume', 'vm.pause']) {
    await guest.api.put(verb);
    expect((await guest.api.put('vm.reboot')).status).toBe(204);
    await guest.waitFor('guest: init reached', 90_000);
  }

  expect((await guest.api.get('vm.info')).json).toMatchObject({ state: 'Running' });
});
