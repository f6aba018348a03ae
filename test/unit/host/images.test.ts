import { expect, test } from 'vitest';
import { contentKey } from '../../../guest-images/cache.ts';
import { run } from '../../../guest-images/command.ts';
import { cpio, DIRECTORY, FILE } from '../../../guest-images/cpio.ts';
import { parseStanza } from '../../../guest-images/debian.ts';
import { lz4Payload } from '../../../guest-images/kernel.ts';

test('a key tells apart parts that join to the same text', () => {
  expect(contentKey('ab', 'c')).not.toBe(contentKey('a', 'bc'));
  expect(contentKey('ab', 'c')).toBe(contentKey('ab', 'c'));
});

test('an archive has its members at multiples of four bytes, and an end', () => {
  const archive = cpio([
    { path: 'bin', mode: DIRECTORY },
    { path: 'bin/a', mode: FILE, content: 'hello' },
  ]);

  const starts = [...archive.toString('latin1').matchAll(/070701/g)].map((match) => match.index);
  expect(starts).toEqual([0, 116, 240]);
  expect(archive.toString('latin1', 116 + 110, 116 + 110 + 6)).toBe('bin/a\0');
  expect(archive.toString('latin1', 232, 240)).toBe('hello\0\0\0');
  expect(archive.includes('TRAILER!!!\0')).toBe(true);
  expect(archive.length % 4).toBe(0);
});

test('the fields that matter are read from what apt-cache shows', () => {
  const stanza = 'Package: a\nVersion: 1:2-3\nDepends: b (= 2), c\nDescription: d\n Version: no';

  expect(parseStanza(stanza)).toEqual({ name: 'a', version: '1:2-3', depends: 'b (= 2), c' });
});

test('the payload of a bzImage is found by its header', () => {
  const image = Buffer.alloc(3000);
  image.writeUInt8(1, 0x1f1); // setup sectors
  image.writeUInt32LE(16, 0x248); // payload offset
  image.writeUInt32LE(12, 0x24c); // and length
  image.writeUInt32LE(0x184c2102, 1024 + 16);
  image.writeUInt32LE(77, 1024 + 16 + 8);

  const { frame, sizeBytes } = lz4Payload(image);

  expect(frame).toEqual(image.subarray(1040, 1048));
  expect(sizeBytes).toBe(77);
});

test('a kernel that is compressed in another way is refused', () => {
  expect(() => lz4Payload(Buffer.alloc(3000))).toThrow('not compressed with LZ4');
});

test('a failed step names itself, what the program said, and the remedy', async () => {
  const step = { step: 'Try it', remedy: 'do better' };

  const failed = run(['sh', '-c', 'echo oh no >&2; exit 3'], step);

  await expect(failed).rejects.toThrow(/Try it failed: .*3\n.*oh no\n.*Remedy: do better/s);
});
