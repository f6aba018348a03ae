/**
 * A process of its own, so that its memory is its own too: `hostile.ts NAME ROUNDS` lets a driver do
 * its worst to a device, and prints by how much the process grows in five times as many rounds.
 */
import { setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';
import { KIB } from '../../../src/bytes.ts';
import { native } from '../../../src/native.ts';
import { ringsGpa } from '../../unit/support/driver.ts';
import { Echo } from '../../unit/support/echo.ts';
import { BREAKAGES } from './breakages.ts';
import { newRam, RAM_BYTES, Rig, turn } from './rig.ts';
import { SUBJECTS, type Subject } from './subjects.ts';

/** The collector has its own times: of as many looks at the memory the lowest counts. */
const LOOKS = 5;

/** What is kept grows in every window of as many looks; what only settles stops. */
const WINDOWS_MAX = 6;
const SETTLED_BYTES = 512 * KIB;
const RING_BYTES = 0x3000;
const F_NEXT_AND_WRITE = 3;

setFlagsFromString('--semi-space-growth-factor=1'); // as the product does
setFlagsFromString('--expose-gc');
const collect = runInNewContext('gc') as () => void;

async function resident(): Promise<number> {
  for (let i = 0; i < 3; i++) {
    collect();
    await turn();
  }
  await native.trimMemory();
  return process.memoryUsage.rss();
}

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

/** After each `rounds` rounds. */
async function lowest(): Promise<number> {
  let bytes = Number.POSITIVE_INFINITY;
  for (let look = 0; look < LOOKS; look++) {
    for (let i = 0; i < rounds; i++) await round(rig, wanted.request.queue);
    bytes = Math.min(bytes, await resident());
  }
  return bytes;
}

const [name, rounds] = [process.argv[2], Number(process.argv[3])];
const wanted = SUBJECTS.find((one) => one.name === name) as Subject;
// All pages of RAM are there from the start: a driver may touch them.
const memory = newRam();
memory.write(0, Buffer.alloc(RAM_BYTES, 1));
const device = wanted.create();
const rig = new Rig(device, { memory });
rig.start();
let before = await lowest();
let grown = Number.POSITIVE_INFINITY;
for (let window = 0; window < WINDOWS_MAX && grown > SETTLED_BYTES; window++) {
  const now = await lowest();
  grown = Math.min(grown, now - before);
  before = now;
}
await rig.driver.reset();
rig.start();
const answers = await rig.answers(wanted.request);
await rig[Symbol.asyncDispose]();
console.log(JSON.stringify({ grown, answers }));
