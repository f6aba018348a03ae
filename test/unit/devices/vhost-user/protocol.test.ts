import { closeSync, fstatSync, openSync } from 'node:fs';
import fc from 'fast-check';
import { expect, test } from 'vitest';
import {
  decodeConfig,
  decodeInflight,
  decodeU64,
  decodeVring,
  encode,
  encodeConfig,
  encodeInflight,
  encodeMemTable,
  encodeU64,
  encodeVring,
  encodeVringAddr,
  MessageReader,
  ProtocolError,
} from '../../../../src/devices/vhost-user/protocol.ts';

const u32 = fc.integer({ min: 0, max: 2 ** 32 - 1 });
const u64 = fc.bigInt({ min: 0n, max: 2n ** 64n - 1n });
const payload = fc.uint8Array({ maxLength: 268 });
const aMessage = fc.record({
  request: u32,
  payload,
  isReply: fc.boolean(),
  needsReply: fc.boolean(),
});

const openFd = () => openSync('/dev/null', 'r');
const isOpen = (fd: number) => {
  try {
    return fstatSync(fd).isCharacterDevice();
  } catch {
    return false;
  }
};

test('a header is as the protocol has it: request, flags with the version, size; little-endian', () => {
  const bytes = encode(24, Uint8Array.of(0xaa), { needsReply: true });

  expect([...bytes]).toEqual([24, 0, 0, 0, 0x09, 0, 0, 0, 1, 0, 0, 0, 0xaa]);
});

test('messages come out as they went in, however the socket cuts them', () => {
  const cuts = fc.array(fc.integer({ min: 1, max: 40 }), { minLength: 1 });
  fc.assert(
    fc.property(fc.array(aMessage, { maxLength: 5 }), cuts, (messages, sizes) => {
      const bytes = Buffer.concat(messages.map((m) => encode(m.request, m.payload, m)));
      const reader = new MessageReader();
      const read = [];
      for (let at = 0, i = 0; at < bytes.length; i++) {
        const size = sizes[i % sizes.length] ?? 1;
        read.push(...reader.push(bytes.subarray(at, at + size)));
        at += size;
      }

      expect(read).toEqual(messages.map((m) => ({ ...m, fds: [] })));
    }),
  );
});

test('any bytes at all are messages or a ProtocolError, and leave no descriptor open', () => {
  fc.assert(
    fc.property(fc.array(fc.uint8Array({ maxLength: 64 }), { maxLength: 8 }), (parts) => {
      const fd = openFd();
      const reader = new MessageReader();
      const taken: number[] = [];
      try {
        for (const [i, part] of parts.entries())
          for (const { fds } of reader.push(part, i === 0 ? [fd] : [])) taken.push(...fds);
      } catch (error) {
        expect(error).toBeInstanceOf(ProtocolError);
      }
      for (const one of taken) closeSync(one);
      reader.close();
      if (parts.length === 0) closeSync(fd);

      expect(isOpen(fd)).toBe(false);
    }),
  );
});

test.each<[string, number[]]>([
  ['version 2', [1, 0, 0, 0, 0x06, 0, 0, 0, 0, 0, 0, 0]],
  ['flags 0x11', [1, 0, 0, 0, 0x11, 0, 0, 0, 0, 0, 0, 0]],
  ['a message of 4294967295 bytes', [1, 0, 0, 0, 0x05, 0, 0, 0, 0xff, 0xff, 0xff, 0xff]],
  ['a message of 269 bytes', [1, 0, 0, 0, 0x05, 0, 0, 0, 13, 1, 0, 0]],
])('%s is refused from the header on', (text, bytes) => {
  expect(() => new MessageReader().push(Uint8Array.from(bytes))).toThrow(new ProtocolError(text));
});

test('more descriptors than a message has are closed', () => {
  const fds = [openFd(), openFd()];

  expect(() => new MessageReader().push(encode(1, new Uint8Array(0)), fds)).toThrow(ProtocolError);

  expect(fds.map(isOpen)).toEqual([false, false]);
});

test('a descriptor is of the last message that came with it, whole or not', () => {
  const [plain, bound] = [encode(1, new Uint8Array(0)), encode(2, new Uint8Array(8))];
  const [first, second] = [openFd(), openFd()];
  const reader = new MessageReader();

  const whole = reader.push(Buffer.concat([plain, bound]), [first]);
  const part = reader.push(Buffer.concat([plain, bound.subarray(0, 9)]), [second]);
  const rest = reader.push(bound.subarray(9));

  expect(whole.map(({ fds }) => fds)).toEqual([[], [first]]);
  expect(part.map(({ fds }) => fds)).toEqual([[]]);
  expect(rest.map(({ fds }) => fds)).toEqual([[second]]);
  for (const fd of [first, second]) closeSync(fd);
});

test('what is encoded is decoded as it was', () => {
  fc.assert(
    fc.property(u64, u64, u32, payload, (a, b, c, bytes) => {
      expect(decodeU64(encodeU64(a))).toBe(a);
      expect(decodeVring(encodeVring(7, c), 7)).toBe(c);
      expect(decodeInflight(encodeInflight({ sizeBytes: a, fileOffset: b }, 1, 128))).toEqual({
        sizeBytes: a,
        fileOffset: b,
      });
      const config = bytes.subarray(0, 256);
      expect(decodeConfig(encodeConfig(0, config), config.length)).toEqual(config);
    }),
  );
});

test('an answer of another size, queue or part is refused', () => {
  const config = new Uint8Array(60);
  for (const decode of [
    () => decodeU64(new Uint8Array(7)),
    () => decodeU64(new Uint8Array(9)),
    () => decodeVring(encodeVring(1, 0), 0),
    () => decodeVring(new Uint8Array(0), 0),
    () => decodeInflight(new Uint8Array(16)),
    () => decodeConfig(encodeConfig(0, config), 59),
    () => decodeConfig(encodeConfig(0, config), 61),
    () => decodeConfig(encodeConfig(1, config), 60),
  ])
    expect(decode).toThrow(ProtocolError);
});

test('the memory table has RAM by guest addresses alone, and its descriptors in order', () => {
  const regions = [
    { gpa: 0, sizeBytes: 0x1000, readonly: false, fd: 8, fileOffset: 0 },
    { gpa: 2 ** 32, sizeBytes: 0x2000, readonly: false, fd: 9, fileOffset: 0x1000 },
  ];

  const { payload, fds } = encodeMemTable(regions);

  const words = new BigUint64Array(payload.buffer.slice(8));
  const high = 2n ** 32n;
  expect([...words]).toEqual([0n, 0x1000n, 0n, 0n, high, 0x2000n, high, 0x1000n]);
  expect(payload[0]).toBe(2);
  expect(fds).toEqual([8, 9]);
});

test('the memory table has eight ranges at most', () => {
  const many = Array.from({ length: 9 }, (_, i) => ({
    ...{ gpa: i, sizeBytes: 1, readonly: false },
    ...{ fd: i, fileOffset: 0 },
  }));

  expect(encodeMemTable(many)).toMatchObject({ fds: [0, 1, 2, 3, 4, 5, 6, 7] });
});

test('the parts of a queue stand in the order of the protocol: descriptors, used, available', () => {
  const bytes = encodeVringAddr(3, { descGpa: 0x10, availGpa: 0x20, usedGpa: 0x30 });

  expect([...new BigUint64Array(bytes.buffer)]).toEqual([3n, 0x10n, 0x30n, 0x20n, 0n]);
});
