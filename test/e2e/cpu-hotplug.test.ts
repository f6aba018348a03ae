import { expect, test } from 'vitest';
import { Guest } from './support/guest.ts';

const CPUS = '/sys/devices/system/cpu';
/** A CPU that is there is one that the guest must be told to use. */
const USE_ALL = `for c in ${CPUS}/cpu[1-9]/online; do test ! -e $c || echo 1 >$c || exit 1; done`;
/** Work on every CPU of the guest, each kept there; it leaves an emulated host some breath. */
const WORK = [
  'touch /tmp/work; kill $(cat /tmp/work) 2>/dev/null; rm /tmp/work',
  'for c in $(seq 0 $(($(nproc) - 1)))',
  'do taskset -c $c sh -c "while sleep 0.05; do seq 500 >/dev/null; done" & echo $! >>/tmp/work; done',
].join('; ');

/** Asks for so many vCPUs, and waits until the guest uses as many. */
async function resize(guest: Guest, count: number): Promise<void> {
  expect((await guest.api.put('vm.resize', { desired_vcpus: count })).status).toBe(204);
  expect((await guest.api.get('vm.info')).json).toMatchObject({
    config: { cpus: { boot_vcpus: count, max_vcpus: 4 } },
  });
  await guest.eventually(`test $(ls -d ${CPUS}/cpu[0-9] | wc -l) = ${count} && ${USE_ALL}`);
  await guest.eventually(`test $(nproc) = ${count}`);
}

test('vCPUs come and go under load, as often as wanted, and a reboot keeps their number', async () => {
  await using guest = await Guest.boot({ cpus: 1, cpusMax: 4 });

  for (const count of [4, 1, 4]) {
    await resize(guest, count);
    await guest.run(WORK);
  }
  expect((await guest.api.put('vm.nmi')).status).toBe(204);
  await guest.eventually(
    "grep NMI: /proc/interrupts | awk '{ exit !($2 > 0 && $3 > 0 && $4 > 0 && $5 > 0) }'",
  );
  expect(await guest.run('dmesg | grep -ciE "soft lockup|rcu.*stall|ACPI.*error" || true')).toBe(
    '0',
  );

  expect((await guest.api.put('vm.reboot')).status).toBe(204);
  await guest.ready();
  expect(await guest.run('nproc')).toBe('4');
}, 300_000);
