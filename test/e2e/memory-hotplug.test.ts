/** RAM that is plugged into a guest that runs. */
import { expect, test } from 'vitest';
import { mustExec } from '../host/exec.ts';
import { Guest } from './support/guest.ts';
import { ScratchDisk } from './support/scratch-disk.ts';

const MIB = 1 << 20;
/** A guest that boots twice, on a host that is busy. */
const TEST_TIMEOUT_MS = 240_000;
const POLL = { timeout: 60_000, interval: 200 };

/** What comes is used at once, and can be given up again. */
const ONLINE = 'echo online_movable >/sys/devices/system/memory/auto_online_blocks';

const memTotal = (test: string): string =>
  `test $(awk '/MemTotal/{print int($2/1024)}' /proc/meminfo) ${test}`;

/** RAM of the VMM's process that is there now. */
async function residentMib(guest: Guest): Promise<number> {
  const status = await mustExec(guest.host, `cat /proc/${guest.vmm.pid}/status`);
  return Number(/^VmRSS:\s+(\d+) kB/m.exec(status)?.[1]) / 1024;
}

async function resize(guest: Guest, mib: number): Promise<void> {
  expect((await guest.api.put('vm.resize', { desired_ram: mib * MIB })).status).toBe(204);
}

/** Has the guest write to more RAM than it had free at first. */
const touch = (guest: Guest): Promise<string> =>
  guest.run(
    'mkdir -p /t && mount -t tmpfs -o size=500m t /t && ' +
      'dd if=/dev/zero of=/t/f bs=1M count=480 2>/dev/null && umount /t',
    90_000,
  );

test('RAM grows in the middle of disk I/O, is used, and is one piece after a reboot', {
  timeout: TEST_TIMEOUT_MS,
}, async () => {
  await using disk = await ScratchDisk.make(64, 'ext4');
  await using guest = await Guest.boot({
    memory: '512M,hotplug_size=1536M',
    disks: [disk.path],
  });
  await guest.run(`${ONLINE} && mount -t ext4 /dev/vda /mnt`);
  const load =
    'while ! test -e /stop; do dd if=/dev/zero of=/mnt/f bs=1M count=8 oflag=direct 2>/dev/null ' +
    '|| touch /failed; done; touch /ended';
  await guest.run(`(${load}) >/dev/null 2>&1 &`);

  await resize(guest, 1024);
  await guest.eventually(memTotal('-ge 900'));
  await resize(guest, 2048);
  await guest.eventually(memTotal('-ge 1900'));
  await guest.run('touch /stop');
  await guest.eventually('test -e /ended');
  await guest.run('! test -e /failed && umount /mnt');
  await touch(guest);
  const { json } = await guest.api.get('vm.info');
  expect(json).toMatchObject({ memory_actual_size: 2048 * MIB });

  expect((await guest.api.put('vm.reboot')).status).toBe(204);
  await guest.ready();

  await guest.run(memTotal('-ge 1900'));
  expect(await guest.run('cat /proc/iomem | grep -c "System RAM"')).toMatch(/^[12]$/);
});

test("by the block RAM grows and shrinks, and what is given up is the host's", {
  timeout: TEST_TIMEOUT_MS,
}, async () => {
  await using guest = await Guest.boot({
    memory: '512M,hotplug_method=virtio-mem,hotplug_size=1536M',
  });
  const actualMib = async (): Promise<number> => {
    const { json } = await guest.api.get('vm.info');
    return (json as { memory_actual_size: number }).memory_actual_size / MIB;
  };
  await guest.run(ONLINE);

  await resize(guest, 2048);
  await expect.poll(actualMib, POLL).toBe(2048);
  await guest.eventually(memTotal('-ge 1900'));
  await touch(guest);
  const before = await residentMib(guest);
  expect(before).toBeGreaterThan(480);
  await resize(guest, 512);

  await expect.poll(actualMib, POLL).toBe(512);
  await guest.eventually(memTotal('-lt 512'));
  expect(await residentMib(guest)).toBeLessThan(before - 200);
});
