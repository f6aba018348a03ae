/** qcow2 images whose VMM is killed while the guest writes. */
import { setTimeout as sleep } from 'node:timers/promises';
import { expect, onTestFinished, test } from 'vitest';
import { mustExec } from '../host/exec.ts';
import { DiskImage } from './support/disk-image.ts';
import { Guest } from './support/guest.ts';

const NAMES = ['qcow2 of version 2', 'qcow2 of version 3', 'qcow2 of clusters of 4 KiB'] as const;
const LETTERS = ['a', 'b', 'c'];
const KILLS = 2;

/** Of block `i`, in blocks of 4 KiB; another one for each. */
const place = (i: number | string): string => `$((${i} * 37 % 4096))`;

/** Lines of eight bytes, which fill a block. */
const contents = (i: string): string => `yes $(printf %07d ${i}) | head -c 4096`;

/** What one disk is put under: noise in its second half, and from its first what is flushed. */
const load = (letter: string, from: number): string =>
  `(i=0; while :; do head -c 300000 /dev/urandom | ` +
  `dd of=/dev/vd${letter} bs=4k seek=$((4096 + i * 71 % 4000)); i=$((i+1)); done) ` +
  `>/dev/null 2>&1 & (i=${from}; while ${contents('$i')} | ` +
  `dd of=/dev/vd${letter} bs=4k seek=${place('$i')} conv=fsync; do ` +
  `echo "saved ${letter} $i." >/dev/console; i=$((i+1)); done) >/dev/null 2>&1 &`;

/** The numbers of the blocks of a disk that its guest knew to be flushed. */
const savedOn = (letter: string, text: string): number[] =>
  [...text.matchAll(new RegExp(`saved ${letter} (\\d+)\\.`, 'g'))].map(([, i]) => Number(i));

test('an image is sound after each kill of its VMM, with all that was flushed', async () => {
  const images = await Promise.all(NAMES.map((name) => DiskImage.make(name, '32M')));
  onTestFinished(async () => {
    for (const image of images) await image[Symbol.asyncDispose]();
  });
  const saved = LETTERS.map((): number[] => []);

  for (let kill = 1; kill <= KILLS; kill++) {
    await using guest = await Guest.boot({ cpus: 2, disks: images.map(({ disk }) => disk) });
    for (const [i, letter] of LETTERS.entries())
      await guest.run(load(letter, (saved[i]?.at(-1) ?? 0) + 2)); // one may be there unsaid
    for (const letter of LETTERS) await guest.waitFor(`saved ${letter} `, 30_000);
    await sleep(1000 + 777 * kill);

    guest.vmm.kill('SIGKILL');
    await guest.exited;

    for (const [i, image] of images.entries()) {
      saved[i]?.push(...savedOn(LETTERS[i] ?? '', guest.console.text));
      await image.check('leaks');
      const raw = await image.convert();
      const read = `dd if=${raw} bs=4k skip=${place('$i')} count=1 status=none | uniq`;
      const found = await mustExec(image.host, `for i in ${saved[i]?.join(' ')}; do ${read}; done`);
      expect(found.trim().split('\n').map(Number), NAMES[i]).toEqual(saved[i]);
    }
  }
});
