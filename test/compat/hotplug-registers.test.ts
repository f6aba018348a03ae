/** What a guest can do by the registers through which devices, vCPUs and RAM come and go. */
import { readFileSync, truncateSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { bareGuest } from '../support/bare-guest.ts';
import { guestConfig } from './support/guests.ts';
import { VmmProcess } from './support/vmm-process.ts';

const MIB = 1 << 20;
/** Of a guest that takes some seconds to write everything, on a machine that is busy. */
const POLL = { timeout: 60_000, interval: 20 };
const TEST_TIMEOUT_MS = 200_000;

interface Info {
  config: object;
  device_tree: Record<string, object>;
}

test('a guest that writes everything everywhere gets nothing, and loses only what it is asked for', {
  timeout: TEST_TIMEOUT_MS,
}, async () => {
  await using vmm = await VmmProcess.start();
  const put = async (verb: string, body?: object) =>
    expect([verb, (await vmm.put(verb, body)).status]).toEqual([
      verb,
      expect.toBeOneOf([200, 204]),
    ]);
  const info = async () => (await vmm.get('vm.info')).body as Info;
  const file = (name: string): string => {
    const path = join(vmm.folder, name);
    writeFileSync(path, '');
    truncateSync(path, 4096);
    return path;
  };
  const passes = () => readFileSync(join(vmm.folder, 'serial'), 'utf8').split('pass ').length - 1;
  /** The selectors have other values in every other pass. */
  const writeAll = async () => {
    const end = passes() + 2;
    await expect.poll(passes, POLL).toBeGreaterThanOrEqual(end);
  };
  await put('vm.create', {
    ...guestConfig(vmm.folder),
    payload: { kernel: bareGuest('hotplug-registers') },
    cpus: { boot_vcpus: 2, max_vcpus: 2, max_phys_bits: 36 },
    memory: { size: 64 * MIB, hotplug_size: 128 * MIB },
    disks: [{ path: file('d') }],
  });
  await put('vm.boot');

  const before = await info();
  await writeAll();
  expect(await info()).toEqual(before);

  await put('vm.add-disk', { path: file('e'), id: 'e' });
  await put('vm.resize', { desired_ram: 192 * MIB });
  await writeAll();
  expect(Object.keys((await info()).device_tree)).toEqual(expect.arrayContaining(['_disk0', 'e']));

  await put('vm.remove-device', { id: '_disk0' });
  await put('vm.resize', { desired_vcpus: 1 });
  await writeAll();
  await expect.poll(async () => '_disk0' in (await info()).device_tree, POLL).toBe(false);
  await put('vm.resize', { desired_vcpus: 2 });
  expect(await info()).toMatchObject({
    memory_actual_size: 192 * MIB,
    config: { disks: [{ id: 'e' }], cpus: { boot_vcpus: 2 } },
  });
});
