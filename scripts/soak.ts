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
import { parseArgs } from 'node:util';
import {
  countsOf,
  type Holdings,
  leastOf,
  settledHoldings,
} from '../test/compat/support/holdings.ts';
import { random } from '../test/fuzz/random.ts';
import { Machine } from '../test/soak/machine.ts';

/** Between two looks at whether all is as it should be. */
const STEPS = 150;
/** Until all code is compiled, and everything that is made once is there. */
const WARM_UP_MS = 60_000;
/** At what it holds, before and after. */
const LOOKS = 5;
/** V8 gives room back when it pleases: so often they are taken until there is no more of it. */
const HELD_MAX = 3;
/**
 * What V8 may have more of, which was up to 2.4 MiB; a leak of a kilobyte a step comes to more
 * within three minutes, which are some five thousand steps.
 */
const GROWTH_KIB_MAX = 4096;

/** What it holds at rest. */
async function held(machine: Machine): Promise<Holdings> {
  const looks: Holdings[] = [];
  while (looks.length < LOOKS) {
    await machine.rest();
    looks.push(await settledHoldings(machine.vmm.pid));
  }
  return leastOf(looks);
}

const grownKib = (before: Holdings, after: Holdings): number =>
  after.privateKib - before.privateKib;

/** Node's own threads for files, all of which begin with the first use, which may come late. */
const POOL_THREADS = 4;

function checkGrowth(before: Holdings, after: Holdings): void {
  const had = countsOf(before);
  const has = JSON.stringify(countsOf(after));
  const withPool = { ...had, threads: had.threads + POOL_THREADS };
  if (![had, withPool].some((counts) => JSON.stringify(counts) === has))
    throw new Error(`It held ${JSON.stringify(had)} and now holds ${has}`);
  const grown = grownKib(before, after);
  if (grown > GROWTH_KIB_MAX) throw new Error(`It holds ${grown} KiB more than at first`);
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
  let after = await held(machine);
  for (let more = 1; more < HELD_MAX && grownKib(before, after) > GROWTH_KIB_MAX; more++)
    after = leastOf([after, await held(machine)]);
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
