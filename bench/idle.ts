/**
 * What a VMM does while its guest, a real Linux, does nothing: context switches and CPU ticks of
 * all its threads but the vCPUs, on a host that can run such a guest (test/host/README.md).
 *
 *     npx tsx bench/idle.ts [--peer NAME=PATH]... [--rounds N] [--json FILE]
 *
 * A round is ten seconds; those of one subject follow each other.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import { Guest } from '../test/e2e/support/guest.ts';
import { product, type Vmm } from '../test/e2e/support/vmm.ts';
import { mustExec } from '../test/host/exec.ts';
import { openHost } from '../test/host/open-host.ts';
import { placeOf } from './support/place.ts';
import { add, type Goal, report, type Samples } from './support/record.ts';
import { benchArguments, type Peer } from './support/subjects.ts';

const SWITCHES = 'context switches in 10 s';
const TICKS = 'CPU ticks in 10 s';

const GOALS: Goal[] = [SWITCHES, TICKS].map((measure) => ({ measure, limit: 0 }));

/** V8 looks over its heap once more some seconds after it was last busy, and the guest settles. */
const QUIET_MS = 60_000;
const ROUND_MS = 10_000;

// In what follows the name in /proc/PID/stat, utime and stime.
const UTIME = 11;
const STIME = 12;

/** Of all threads but the vCPUs', since they began. */
async function activity({ host, vmm }: Guest) {
  const lines = await mustExec(
    host,
    `cd /proc/${vmm.pid}/task && for thread in *; do
       grep -q ^vcpu $thread/comm && continue
       sed 's/.*) //' $thread/stat
       grep ctxt_switches $thread/status
     done`,
  );
  let [switches, ticks] = [0, 0];
  for (const line of lines.trim().split('\n')) {
    const [, count] = /ctxt_switches:\t(\d+)/.exec(line) ?? [];
    const fields = line.split(' ');
    if (count !== undefined) switches += Number(count);
    else ticks += Number(fields[UTIME]) + Number(fields[STIME]);
  }
  return { switches, ticks };
}

async function measure(name: string, vmm: Vmm): Promise<void> {
  await using guest = await Guest.boot({ vmm, host });
  await sleep(QUIET_MS);
  for (let i = 0; i < options.rounds; i++) {
    const before = await activity(guest);
    await sleep(ROUND_MS);
    const after = await activity(guest);
    add(samples, SWITCHES, name, after.switches - before.switches);
    add(samples, TICKS, name, after.ticks - before.ticks);
  }
}

const peerVmm = ({ name, path }: Peer): Vmm => ({
  ...product,
  name,
  argv: async (host, machine) => {
    const [, ...args] = await product.argv(host, machine);
    return [await host.stage(path), ...args];
  },
});

const options = benchArguments(process.argv.slice(2));
const samples: Samples = new Map();
const host = await openHost();
try {
  await measure('ours', product);
  for (const peer of options.peers) await measure(peer.name, peerVmm(peer));
  report('idle', samples, GOALS, options.json, await placeOf(host));
} finally {
  await host.close();
}
