/** The harness itself, with QEMU as the VMM: what fails here is no defect of the product. */
import { expect, test } from 'vitest';
import { currentHost } from './support/current-host.ts';
import { Guest } from './support/guest.ts';
import { qemu, type Terminal } from './support/vmm.ts';

test('the host has a working /dev/kvm', async () => {
  const host = await currentHost();

  const { code, stdout } = await host.exec('test -c /dev/kvm && echo yes');

  expect({ code, stdout }).toEqual({ code: 0, stdout: 'yes\n' });
});

test('what is staged on the host can be read there, and is staged once', async () => {
  const host = await currentHost();

  const path = await host.stage(import.meta.dirname);

  const { stdout } = await host.exec(`grep -c staged ${path}/host.test.ts`);
  expect(Number(stdout)).toBeGreaterThan(1);
  expect(await host.stage(import.meta.dirname)).toBe(path);
});

test('a guest boots to its init, answers, and is told from one that is slow when it is gone', async () => {
  await using guest = await Guest.boot({ vmm: qemu, cpus: 2, kernel: 'vmlinuz' });

  expect(await guest.run('echo hello')).toBe('hello');
  expect(await guest.run('nproc')).toBe('2');
  expect(await guest.answer('printf a; exit 3')).toEqual({ code: 3, output: 'a' });
  await guest.eventually('test -e /run/later || { touch /run/later; false; }');

  guest.console.type('reboot\n'); // QEMU is started with -no-reboot

  await expect(guest.waitFor('never', 60_000)).rejects.toThrow('The VMM ended with 0');
});

test.each<Terminal>(['serial-socket', 'virtio-tty'])(
  'a guest is typed at by %s',
  async (terminal) => {
    await using guest = await Guest.boot({ vmm: qemu, terminal });

    expect(await guest.run('echo hello')).toBe('hello');
  },
);

test('a serial port that goes to a file is read', async () => {
  await using guest = await Guest.boot({ vmm: qemu, terminal: 'serial-file' });

  expect(guest.console.text).toMatch(/^guest: init reached after [\d.]+ s\nguest: ready/);
});
