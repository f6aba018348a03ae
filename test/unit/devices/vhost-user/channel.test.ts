/** One connection of vhost-user: what a backend may say while we are busy with what it asked. */
import { closeSync, readSync, writeSync } from 'node:fs';
import { setTimeout as sleep, setImmediate as tick } from 'node:timers/promises';
import { expect, test } from 'vitest';
import { Channel } from '../../../../src/devices/vhost-user/channel.ts';
import { encode } from '../../../../src/devices/vhost-user/protocol.ts';
import { native } from '../../../../src/native.ts';

const REQUEST = encode(2, new Uint8Array(0), { needsReply: true });

/** Writes as much as the socket takes now, and says how many bytes that are. */
function fill(fd: number): number {
  for (let sizeBytes = 0; ; ) {
    try {
      sizeBytes += writeSync(fd, REQUEST);
    } catch (error) {
      expect((error as NodeJS.ErrnoException).code).toBe('EAGAIN');
      return sizeBytes;
    }
  }
}

test('a backend that asks on while it is served is heard no further, and answered in the end', async () => {
  const [ours, theirs] = native.unixStreams.pair();
  const asked: (() => void)[] = [];
  const channel = new Channel(ours, {
    onRequest: () => new Promise((resolve) => asked.push(() => resolve(0))),
    onLost: (reason) => expect.unreachable(reason.message),
  });
  const answer = encode(2, new Uint8Array(8));
  const turns = async () => {
    for (let i = 0; i < 20; i++) await sleep(1);
  };
  try {
    let saidBytes = fill(theirs);
    await turns();
    saidBytes += fill(theirs); // in place of what one read has taken
    await turns();
    expect(fill(theirs)).toBe(0);
    expect(asked).toHaveLength(1);

    const count = saidBytes / REQUEST.length;
    for (let answered = 0; answered < count; answered++) {
      await expect.poll(() => asked.length, { interval: 1 }).toBe(answered + 1);
      asked[answered]?.();
      await tick();
      expect(readSync(theirs, answer)).toBe(answer.length);
    }
    expect(count).toBeGreaterThan(300);
  } finally {
    channel.close();
    closeSync(theirs);
  }
});
