/** RAM that a guest lends back, as the host's kernel counts it. */
import { setTimeout as sleep } from 'node:timers/promises';
import { expect, test } from 'vitest';
import { mustExec } from '../host/exec.ts';
import { Guest } from './support/guest.ts';

const MIB = 1 << 20;
const RAM_MIB = 256;
const USED_MIB = 128;
const TIMEOUT_MS = 60_000;

/** RAM of the VMM's process that is there now. */
async function residentMib(guest: Guest): Promise<number> {
  const status = await mustExec(guest.host, `cat /proc/${guest.vmm.pid}/status`);
  return Number(/^VmRSS:\s+(\d+) kB/m.exec(status)?.[1]) / 1024;
}

async function eventually(what: string, holds: () => Promise<boolean>): Promise<void> {
  const deadline = Date.now() + TIMEOUT_MS;
  while (!(await holds())) {
    if (Date.now() > deadline) throw new Error(`Still not so: ${what}`);
    await sleep(200);
  }
}

/** Has the guest lend so much, and waits until it does. */
async function lend(guest: Guest, mib: number): Promise<void> {
  const answer = await guest.api.put('vm.resize', { desired_balloon: mib * MIB });
  expect(answer.status).toBe(204);
  await eventually(`${mib} MiB are lent`, async () => {
    const { json } = await guest.api.get('vm.info');
    return (json as { memory_actual_size: number }).memory_actual_size === (RAM_MIB - mib) * MIB;
  });
}

/** Has the guest write to so much of its RAM, and free it. */
const touch = (guest: Guest): Promise<string> =>
  guest.run(
    `mkdir -p /t && mount -t tmpfs -o size=${USED_MIB + 1}m t /t && ` +
      `dd if=/dev/zero of=/t/f bs=1M count=${USED_MIB} 2>/dev/null && umount /t`,
    TIMEOUT_MS,
  );

test.each(['off', 'on'])(
  "what a guest lends is the host's, and comes back, shared=%s",
  async (shared) => {
    await using guest = await Guest.boot({
      memory: `${RAM_MIB}M,shared=${shared}`,
      args: ['--balloon', 'size=0'],
    });
    await touch(guest);
    const before = await residentMib(guest);
    expect(before).toBeGreaterThan(USED_MIB);

    await lend(guest, 152);
    expect(await residentMib(guest)).toBeLessThan(before - 60);
    await lend(guest, 0);

    await touch(guest);
    expect(await residentMib(guest)).toBeGreaterThan(USED_MIB);
  },
);

test("what a guest reports to be free is the host's, without anybody asking", async () => {
  await using guest = await Guest.boot({
    memory: `${RAM_MIB}M`,
    args: ['--balloon', 'free_page_reporting=on'],
  });
  await touch(guest);

  await eventually('the RSS falls', async () => (await residentMib(guest)) < USED_MIB);

  expect(await guest.run('echo fine')).toBe('fine');
});
