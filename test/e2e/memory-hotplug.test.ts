/** RAM that is plugged into a guest that runs. */
import { expect, test } from 'vitest';
import { Guest } from './support/guest.ts';
import { ScratchDisk } from './support/scratch-disk.ts';

const MIB = 1 << 20;

const ONLINE =
  'for m in /sys/devices/system/memory/memory*/state; do ' +
  'grep -q offline $m && echo online >$m; done; true';

/** MemTotal is at least so much, once all that came is online. */
const hasMib = (guest: Guest, mib: number): Promise<string> =>
  guest.eventually(
    `${ONLINE}; test $(awk '/MemTotal/{print int($2/1024)}' /proc/meminfo) -ge ${mib}`,
  );

async function resize(guest: Guest, mib: number): Promise<void> {
  expect((await guest.api.put('vm.resize', { desired_ram: mib * MIB })).status).toBe(204);
}

test('RAM grows in the middle of disk I/O, is used, and is one piece after a reboot', async () => {
  await using disk = await ScratchDisk.make(64, 'ext4');
  await using guest = await Guest.boot({
    memory: '512M,hotplug_size=1536M',
    disks: [disk.path],
  });
  await guest.run('mount -t ext4 /dev/vda /mnt');
  const load =
    'while ! test -e /stop; do dd if=/dev/zero of=/mnt/f bs=1M count=8 oflag=direct 2>/dev/null ' +
    '|| touch /failed; done';
  await guest.run(`(${load}) >/dev/null 2>&1 &`);

  await resize(guest, 1024);
  await hasMib(guest, 900);
  await resize(guest, 2048);
  await hasMib(guest, 1900);
  // More than it had, and what is written there is there.
  await guest.run(
    'mkdir -p /t && mount -t tmpfs -o size=800m t /t && ' +
      'yes guest | head -c 734003200 >/t/f && ' +
      'yes guest | head -c 734003200 | cmp - /t/f && umount /t',
    120_000,
  );
  await guest.run('touch /stop && wait && ! test -e /failed && umount /mnt', 60_000);
  const { json } = await guest.api.get('vm.info');
  expect(json).toMatchObject({ memory_actual_size: 2048 * MIB });

  expect((await guest.api.put('vm.reboot')).status).toBe(204);
  await guest.ready();

  await guest.run(`test $(awk '/MemTotal/{print int($2/1024)}' /proc/meminfo) -ge 1900`);
  expect(await guest.run('cat /proc/iomem | grep -c "System RAM"')).toMatch(/^[12]$/);
});
