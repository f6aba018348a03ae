/**
 * A VM to which anything happens that can happen to one that runs: devices, vCPUs and RAM come and
 * go, disks get other sizes, it is paused and rebooted, all at random. It ends with a guest in good
 * health and a process that holds what it held at first.
 *
 *   npx tsx scripts/soak.ts [--minutes N] [--seed N]
 *
 * As root, for network cards are on taps. The same seed is the same steps; when each comes is not
 * the same. A failure prints the steps before it.
 */
import { readdirSync, readFileSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import { parseArgs } from 'node:util';
import { random } from '../test/fuzz/random.ts';
import { Machine } from '../test/soak/machine.ts';

/** Between two looks at whether all is as it should be. */
const STEPS = 150;
/** Until all code is compiled, and everything that is made once is there. */
const WARM_UP_MS = 60_000;
/** Garbage is collected a second after the last device has gone. */
const SETTLED_MS = 2500;
const TRIES = 5;
/** What V8 may have more of; a leak of a kilobyte a step comes to more within three minutes. */
const GROWTH_KIB_MAX = 4096;

interface Holdings {
  fds: number;
  threads: number;
  files: number;
  privateKib: number;
}

function holdings(pid: number): Holdings {
  const proc = `/proc/${pid}`;
  const maps = readFileSync(`${proc}/maps`, 'utf8').trim().split('\n');
  const rollup = readFileSync(`${proc}/smaps_rollup`, 'utf8');
  return {
    fds: readdirSync(`${proc}/fd`).length,
    threads: readdirSync(`${proc}/task`).length,
    files: maps.filter((line) => line.includes('/')).length,
    privateKib: Number(/Private_Dirty:\s+(\d+)/.exec(rollup)?.[1]),
  };
}

/** What it holds at rest; of a few looks the least memory, for V8 has more or less of it. */
async function held(machine: Machine): Promise<Holdings> {
  let least = Number.POSITIVE_INFINITY;
  for (let tries = 0; ; ) {
    await machine.rest();
    await sleep(SETTLED_MS);
    const now = holdings(machine.vmm.pid);
    least = Math.min(least, now.privateKib);
    if (++tries === TRIES) return { ...now, privateKib: least };
  }
}

function checkGrowth(before: Holdings, after: Holdings): void {
  const counts = ({ fds, threads, files }: Holdings) => JSON.stringify({ fds, threads, files });
  if (counts(after) !== counts(before))
    throw new Error(`It held ${counts(before)} and now holds ${counts(after)}`);
  const grownKib = after.privateKib - before.privateKib;
  if (grownKib > GROWTH_KIB_MAX) throw new Error(`It holds ${grownKib} KiB more than at first`);
}

async function soak(machine: Machine, minutes: number): Promise<void> {
  const run = async (end: number) => {
    while (Date.now() < end) {
      for (let n = 0; n < STEPS && Date.now() < end; n++) await machine.step();
      await machine.rest();
      await machine.checkGuest();
    }
  };
  await run(Date.now() + WARM_UP_MS);
  const before = await held(machine);
  machine.infoMs.length = 0;
  await run(Date.now() + minutes * 60_000);
  const after = await held(machine);
  for (const [counted, count] of [...machine.counts].sort()) console.log(`${counted}: ${count}`);
  machine.infoMs.sort((a, b) => a - b);
  const at = (part: number) =>
    machine.infoMs[Math.floor(part * (machine.infoMs.length - 1))]?.toFixed(1);
  console.log(
    `vm.info 200: ${machine.infoMs.length}, ms p50 ${at(0.5)}, p99 ${at(0.99)}, max ${at(1)}`,
  );
  console.log(`held at first ${JSON.stringify(before)}, at the end ${JSON.stringify(after)}`);
  checkGrowth(before, after);
}

const { values } = parseArgs({
  options: { minutes: { type: 'string', default: '3' }, seed: { type: 'string' } },
});
const minutes = Number(values.minutes);
const seed = Number(values.seed ?? Date.now() % 1_000_000);
if (!(minutes > 0) || !Number.isInteger(seed)) {
  console.error('Usage: soak.ts [--minutes N] [--seed N]');
  process.exit(2);
}
console.log(`seed ${seed}, ${minutes} minutes`);
await using machine = await Machine.boot(random(seed));
try {
  await soak(machine, minutes);
  console.log('ok');
} catch (error) {
  console.error(await machine.portrait());
  console.error(error);
  process.exitCode = 1;
}
