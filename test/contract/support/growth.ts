/** By how much this process grows with what it does, as far as a collected heap can tell. */
import { setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';
import { KIB } from '../../../src/bytes.ts';
import { native } from '../../../src/native.ts';
import { turn } from './rig.ts';

/** The collector has its own times: of as many looks at the memory the lowest counts. */
const LOOKS = 5;

/** What is kept grows in every window of as many looks; what only settles stops. */
const WINDOWS_MAX = 6;
const SETTLED_BYTES = 512 * KIB;

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

async function lowest(work: () => Promise<void>): Promise<number> {
  let bytes = Number.POSITIVE_INFINITY;
  for (let look = 0; look < LOOKS; look++) {
    await work();
    bytes = Math.min(bytes, await resident());
  }
  return bytes;
}

/** Bytes by which the process grows in five times of `work`. */
export async function growth(work: () => Promise<void>): Promise<number> {
  let before = await lowest(work);
  let grown = Number.POSITIVE_INFINITY;
  for (let window = 0; window < WINDOWS_MAX && grown > SETTLED_BYTES; window++) {
    const now = await lowest(work);
    grown = Math.min(grown, now - before);
    before = now;
  }
  return grown;
}
