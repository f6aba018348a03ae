/**
 * A process of its own, so that its memory is its own too: `hostile.ts NAME ROUNDS` lets a driver do
 * its worst to a device, and prints by how much the process grows in five times as many rounds.
 */
import { ringsGpa } from '../../unit/support/driver.ts';
import { Echo } from '../../unit/support/echo.ts';
import { BREAKAGES } from './breakages.ts';
import { growth } from './growth.ts';
import { newRam, RAM_BYTES, Rig, turn } from './rig.ts';
import { SUBJECTS, type Subject } from './subjects.ts';

const RING_BYTES = 0x3000;
const F_NEXT_AND_WRITE = 3;

/** The same in every run. */
let seed = 1;
const random = (limit: number): number => {
  seed = (Math.imul(seed, 1664525) + 1013904223) >>> 0;
  return seed % limit;
};

const randomBytes = (count: number): Uint8Array =>
  Uint8Array.from({ length: count }, () => random(256));

/** As many overlapping buffers as fit one chain, each all of RAM: 4 GiB that are not there. */
function overlap(rig: Rig, queue: number): void {
  const ring = rig.ring(queue);
  for (let head = 0; head < ring.size; head++) {
    const bytes = Buffer.alloc(16);
    bytes.writeUInt32LE(RAM_BYTES, 8);
    bytes.writeUInt16LE(head === ring.size - 1 ? 2 : F_NEXT_AND_WRITE, 12);
    bytes.writeUInt16LE(head + 1, 14);
    rig.memory.write(ring.descGpa + 16 * head, bytes);
  }
  ring.offer(0);
}

/** What the fakes have recorded for tests. */
function forget(): void {
  const { vm, warnings } = rig.driver;
  warnings.length = 0;
  for (const { calls, sent } of vm.msis) calls.length = sent.length = 0;
  if (device instanceof Echo) device.calls.length = 0;
}

async function round(rig: Rig, queue: number): Promise<void> {
  const ring = rig.ring(queue);
  const kind = random(BREAKAGES.length + 2);
  if (kind < BREAKAGES.length) BREAKAGES[kind]?.write(ring, rig.memory);
  else if (kind === BREAKAGES.length) rig.memory.write(ringsGpa(queue), randomBytes(RING_BYTES));
  else overlap(rig, queue);
  for (let i = random(4); i >= 0; i--) rig.driver.kick(queue);
  for (let i = 0; i < 0x60; i++) rig.driver.write(random(0x9000), 2 ** random(3), random(2 ** 32));
  await turn();
  await rig.driver.reset();
  forget();
  rig.start();
}

const [name, rounds] = [process.argv[2], Number(process.argv[3])];
const wanted = SUBJECTS.find((one) => one.name === name) as Subject;
// All pages of RAM are there from the start: a driver may touch them.
const memory = newRam();
memory.write(0, Buffer.alloc(RAM_BYTES, 1));
const device = wanted.create();
const rig = new Rig(device, { memory });
rig.start();
const grown = await growth(async () => {
  for (let i = 0; i < rounds; i++) await round(rig, wanted.request.queue);
});
await rig.driver.reset();
rig.start();
const answers = await rig.answers(wanted.request);
await rig[Symbol.asyncDispose]();
console.log(JSON.stringify({ grown, answers }));
