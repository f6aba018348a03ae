/** What backs the RAM of a guest that runs, as the host's kernel tells it. */
import { expect, test } from 'vitest';
import { mustExec } from '../host/exec.ts';
import type { KvmHost } from '../host/host.ts';
import { apiConfig, startService } from './support/api-boot.ts';
import { currentHost } from './support/current-host.ts';
import { Guest } from './support/guest.ts';

/** A size that no other mapping of the VMM has. */
const RAM_MIB = 322;
const RAM_KIB = RAM_MIB * 1024;
const HUGE_PAGES = RAM_MIB / 2;

const boot = (settings: string) => Guest.boot({ memory: `${RAM_MIB}M,${settings}` });

/** What /proc/PID/smaps has of guest RAM: the line that names the mapping, and its fields. */
async function ramMapping(guest: Guest) {
  const smaps = await mustExec(guest.host, `cat /proc/${guest.vmm.pid}/smaps`);
  const mappings = smaps.split(/^(?=[0-9a-f]+-[0-9a-f]+ )/m);
  const ram = mappings.filter((text) => new RegExp(`^Size: +${RAM_KIB} kB`, 'm').test(text));
  expect(ram).toHaveLength(1);
  const [name = '', ...fields] = (ram[0] ?? '').trim().split('\n');
  const field = (key: string) =>
    fields.find((line) => line.startsWith(`${key}:`))?.split(/:\s+/)[1];
  return { name, rss: field('Rss'), pages: field('KernelPageSize'), flags: field('VmFlags') };
}

test('anonymous RAM is private, filled as the guest uses it, and may be of huge pages', async () => {
  await using guest = await boot('thp=on');

  const { name, rss, flags } = await ramMapping(guest);

  expect(name).toMatch(/ rw-p 00000000 00:00 0 *$/);
  expect(Number.parseInt(rss ?? '', 10)).toBeLessThan(RAM_KIB / 2);
  expect(flags).toMatch(/\bhg\b/);
  expect(flags).not.toMatch(/\bmg\b/);
});

test('prefaulted RAM is there as a whole, mergeable RAM is known to the host as such', async () => {
  await using guest = await boot('prefault=on,mergeable=on,thp=off');

  const { rss, flags } = await ramMapping(guest);

  expect(rss).toBe(`${RAM_KIB} kB`);
  expect(flags).toMatch(/\bmg\b/);
  expect(flags).not.toMatch(/\bhg\b/);
});

test('shared RAM is a memfd', async () => {
  await using guest = await boot('shared=on');

  expect((await ramMapping(guest)).name).toMatch(/ rw-s .*\/memfd:guest-ram \(deleted\)$/);
});

test('RAM in a directory is a shared file there, of which no name is left', async () => {
  await using guest = await startService();
  const config = await apiConfig(guest, { dialect: 'seed', kernel: 'vmlinux' });
  const memory = { size: RAM_MIB * 1024 * 1024, file: '/dev/shm' };
  const before = await mustExec(guest.host, 'ls -A /dev/shm');

  expect((await guest.api.put('vm.create', { ...config, memory })).status).toBe(204);
  expect((await guest.api.put('vm.boot')).status).toBe(204);
  await guest.waitFor('guest: ready', 90_000);

  expect((await ramMapping(guest)).name).toMatch(/ rw-s .* \/dev\/shm\/\S+ \(deleted\)$/);
  expect(await mustExec(guest.host, 'ls -A /dev/shm')).toBe(before);
});

/** Huge pages that nobody has, nor was promised. */
async function hugePagesLeft(host: KvmHost): Promise<number> {
  const meminfo = await mustExec(host, 'cat /proc/meminfo');
  const count = (field: string) => Number(new RegExp(`^${field}: +(\\d+)`, 'm').exec(meminfo)?.[1]);
  return count('HugePages_Free') - count('HugePages_Rsvd');
}

test('RAM of huge pages takes as many from the host, and gives them back', async () => {
  const host = await currentHost();
  const before = await hugePagesLeft(host);
  const pool = '/proc/sys/vm/nr_hugepages';
  await mustExec(host, `echo $(($(cat ${pool}) + ${HUGE_PAGES + 3})) >${pool}`);
  try {
    {
      await using guest = await boot('hugepages=on');

      expect((await ramMapping(guest)).pages).toBe('2048 kB');
      expect(await hugePagesLeft(host)).toBe(before + 3);
    }
    expect(await hugePagesLeft(host)).toBe(before + HUGE_PAGES + 3);
  } finally {
    await host.exec(`echo $(($(cat ${pool}) - ${HUGE_PAGES + 3})) >${pool}`);
  }
});
