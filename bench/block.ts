/**
 * Disks: how many requests a second a Linux guest gets through, beside QEMU with an I/O thread and
 * io_uring on the same image.
 *
 *     npx tsx bench/block.ts [--rounds N] [--json FILE]
 *
 * Runs where the end-to-end tests run (test/host). Subjects alternate within each round, each in a
 * guest of its own; the image is in the host's page cache, so that the VMM is what is measured.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import { passOnGuestImages } from '../guest-images/images.ts';
import { Guest } from '../test/e2e/support/guest.ts';
import { product, qemu, type Vmm } from '../test/e2e/support/vmm.ts';
import { mustExec } from '../test/host/exec.ts';
import { openHost } from '../test/host/open-host.ts';
import { linuxProgram } from '../test/support/linux-program.ts';
import { jsThread } from './support/js-thread.ts';
import { add, type Goal, median, report, type Samples } from './support/record.ts';
import { benchArguments } from './support/subjects.ts';

const IMAGE = '/root/bench-disk.img';
const IMAGE_MIB = 256;
const SECONDS = 2;

interface Load {
  name: string;
  /** What `disk-load` is told after the device: direction, order, bytes, depth. */
  args: string;
  queues: 1 | 2;
}

const random = (direction: string, depth: number, queues: 1 | 2 = 1): Load => ({
  name: `random ${direction}, 4 KiB, depth ${depth}${queues > 1 ? `, ${queues} queues` : ''}`,
  args: `${direction} random 4096 ${depth}`,
  queues,
});
const sequential = (direction: string, kib: number): Load => ({
  name: `sequential ${direction}, ${kib} KiB, depth 4`,
  args: `${direction} sequential ${kib * 1024} 4`,
  queues: 1,
});

const LOADS: Load[] = [
  ...[1, 32, 64].flatMap((depth) => [random('read', depth), random('write', depth)]),
  ...[32].flatMap((depth) => [random('read', depth, 2), random('write', depth, 2)]),
  ...[128, 1024].flatMap((kib) => [sequential('read', kib), sequential('write', kib)]),
];

const samples: Samples = new Map();
const program = linuxProgram('bench/guest/disk-load.c');

const JS_SWITCHES = 'context switches of the JS thread in a second of the first of these';
const JS_TICKS = 'CPU ticks of it';

/** Of requests a second, ours against QEMU's; here times of a request are compared. */
const GOAL_EACH = 1;
const GOAL_MEAN = 1.2;
const GOALS: Goal[] = LOADS.map(({ name }) => ({
  measure: name,
  limit: 1 / GOAL_EACH,
  times: 'qemu',
}));
GOALS.push({ measure: JS_SWITCHES, limit: 0 }, { measure: JS_TICKS, limit: 0 });

const ARGS: Record<string, (queues: number) => string[]> = {
  qemu: (queues) => [
    ...['-object', 'iothread,id=io0'],
    ...['-drive', `file=${IMAGE},if=none,id=disk0,format=raw,aio=io_uring`],
    ...['-device', `virtio-blk-pci,drive=disk0,iothread=io0,num-queues=${queues}`],
  ],
  [product.name]: (queues) => ['--disk', `path=${IMAGE},num_queues=${queues},image_type=raw`],
};

/** In the middle of a load: its start is typed at the VMM, and its end is printed by it. */
async function measureIdleness(guest: Guest, subject: string): Promise<void> {
  await sleep(SECONDS * 250);
  const before = await jsThread(guest);
  await sleep(SECONDS * 500);
  const after = await jsThread(guest);
  add(samples, JS_SWITCHES, subject, after.switches - before.switches);
  add(samples, JS_TICKS, subject, after.ticks - before.ticks);
}

/** Boots a guest with so many queues and puts each load of that many on its disk. */
async function measure(vmm: Vmm, queues: 1 | 2): Promise<void> {
  const subject = vmm === product ? 'ours' : vmm.name;
  const args = ARGS[vmm.name]?.(queues) ?? [];
  await using guest = await Guest.boot({ vmm, cpus: 2, args, programs: { 'disk-load': program } });
  for (const load of LOADS.filter((each) => each.queues === queues)) {
    const command = `disk-load /dev/vda ${load.args} ${SECONDS} ${queues}`;
    const isFirst = load === LOADS[0] && vmm === product;
    const [output] = await Promise.all([
      guest.run(command),
      isFirst ? measureIdleness(guest, subject) : undefined,
    ]);
    const perSecond = Number(output);
    add(samples, load.name, subject, 1e6 / perSecond);
  }
}

/** How many times as many requests as QEMU, over all loads. */
function geometricMean(): number {
  const logs = LOADS.map(({ name }) => {
    const of = (subject: string) => median(samples.get(name)?.get(subject) ?? []);
    return Math.log(of('qemu') / of('ours'));
  });
  return Math.exp(logs.reduce((sum, log) => sum + log, 0) / logs.length);
}

const { rounds, json } = benchArguments(process.argv.slice(2));
await passOnGuestImages();
await using host = await openHost();
await mustExec(host, `dd if=/dev/urandom of=${IMAGE} bs=1M count=${IMAGE_MIB} status=none`);
for (let round = 0; round < rounds; round++)
  for (const queues of [1, 2] as const)
    for (const vmm of [product, qemu]) await measure(vmm, queues);
console.log('Microseconds a request, of all threads together');
report('block', samples, GOALS, json);
const mean = geometricMean();
const verdict = mean >= GOAL_MEAN ? 'met' : 'MISSED';
console.log(`requests a second, geometric mean: ${mean.toFixed(2)} × qemu, ${verdict}`);
