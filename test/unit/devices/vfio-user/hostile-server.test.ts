/** Servers that lie, are late, or go: each stops its own device, and says why. */
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { Writer } from '../../../../src/bytes.ts';
import { COMMAND, encode } from '../../../../src/devices/vfio-user/protocol.ts';
import { errorChain } from '../../../../src/errors.ts';
import {
  CONFIG,
  forRegion,
  info,
  REGION_MMAP,
  type Reply,
  regionInfo,
  type Script,
  type ServerOptions,
} from '../../support/scripted-server.ts';
import { COMMAND_REGISTER, GPA, UserDeviceBench } from '../../support/user-device-bench.ts';

const [MSIX, VENDOR] = [0x40, 0x50];

let bench: UserDeviceBench;

beforeEach(() => {
  bench = new UserDeviceBench();
});

afterEach(() => bench[Symbol.dispose]());

describe('refused with its reason', () => {
  const version = (major: number, minor: number, text = '') =>
    new Writer(5 + text.length).u16(0, major).u16(2, minor).ascii(4, text).bytes;
  const raw = (bytes: Uint8Array): Reply => ({ raw: bytes });
  const region = (sizeBytes: number | bigint, index = 0): Script => ({
    getRegionInfo: forRegion(index, () => regionInfo(index, sizeBytes)),
  });
  const withFile = (sizeBytes: number, options: Parameters<typeof regionInfo>[2]): Script => ({
    getRegionInfo: forRegion(0, () => ({
      payload: regionInfo(0, sizeBytes, options),
      fds: [bench.file],
    })),
  });
  const mmap = (sizeBytes: number, areas: number[][], fileOffset: number | bigint = 0) =>
    withFile(sizeBytes, { flags: 3 | REGION_MMAP, areas, fileOffset });

  const LIES: [string, Script, RegExp, Partial<ServerOptions>?][] = [
    ['a major version', { version: () => version(1, 0) }, /version 1.0 in place of 0.1/],
    ['a later minor version', { version: () => version(0, 2) }, /version 0.2 in place of 0.1/],
    ['a version that it refuses', { version: () => ({ errno: 22 }) }, /refuses version, errno 22/],
    ['capabilities in words', { version: () => version(0, 1, 'some') }, /no JSON object/],
    [
      'no descriptors',
      { version: () => version(0, 1, '{"capabilities":{"max_msg_fds":0}}') },
      /max_msg_fds 0/,
    ],
    ['no PCI device', { getInfo: () => info({ flags: 1 }) }, /no PCI device/],
    ['too few regions', { getInfo: () => info({ regions: 3 }) }, /3 regions/],
    ['another region', { getRegionInfo: () => regionInfo(5, 0) }, /region 5 for 0/],
    [
      'a BAR that is no power of two',
      {},
      /BAR 0 of 64 bits has 12288 bytes/,
      { barBytes: [0x3000] },
    ],
    [
      'a BAR of all bytes',
      region(2n ** 64n - 1n),
      /BAR 0 of 64 bits has 18446744073709552000 bytes/,
    ],
    ['no configuration space', region(0, 7), /configuration space of 0 bytes/],
    ['an area beyond its region', mmap(0x4000, [[0x3000, 0x2000]]), /can be mapped at 12288/],
    ['an area of part of a page', mmap(0x4000, [[0x10, 0x1000]]), /can be mapped at 16/],
    ['an area that wraps', mmap(0x4000, [[2 ** 64 - 4096, 0x2000]]), /can be mapped at/],
    [
      'areas over each other',
      mmap(0x4000, [
        [0, 0x2000],
        [0x1000, 0x1000],
      ]),
      /mapped at 4096/,
    ],
    ['an offset in a page', mmap(0x4000, [], 5), /region 0 at 5 of its file/],
    ['an offset without end', mmap(0x4000, [], 2n ** 63n), /region 0 at 922337203685477/],
    [
      'a file that was not asked for',
      withFile(0x4000, {}),
      /1 descriptors for region 0, none of which/,
    ],
    ['too many lines', {}, /2 interrupts of kind 0/, { irqCounts: [2] }],
    ['too many messages', {}, /33 interrupts of kind 1/, { irqCounts: [0, 33] }],
    ['2049 of MSI-X', {}, /2049 interrupts of kind 2/, { irqCounts: [0, 0, 2049] }],
    ['a table of more entries', {}, /3 entries, more than/, { irqCounts: [0, 0, 2] }],
    [
      'a table beyond its BAR',
      {},
      /MSI-X table is not within BAR 0/,
      { config: new Writer(256).put(0, CONFIG).u32(MSIX + 4, 0x4000).bytes },
    ],
    [
      'a table in no BAR',
      {},
      /MSI-X table is not within BAR 3/,
      { config: new Writer(256).put(0, CONFIG).u32(MSIX + 4, 3).bytes },
    ],
    ['a short answer', { getInfo: () => new Uint8Array(8) }, /8 bytes in place of 16/],
    [
      'a message too long',
      { getInfo: () => raw(new Writer(16).u16(2, 4).u32(4, 4097).u32(8, 1).bytes) },
      /a message of 4097 bytes/,
    ],
    [
      'a message without end',
      { getInfo: () => raw(new Writer(16).u16(2, 4).u32(4, 0xffff_ffff).u32(8, 1).bytes) },
      /a message of 4294967295 bytes/,
    ],
    [
      'a message shorter than its header',
      { getInfo: () => raw(new Writer(16).u16(2, 4).u32(4, 15).u32(8, 1).bytes) },
      /a message of 15 bytes/,
    ],
    [
      'flags of nobody',
      { getInfo: () => raw(new Writer(16).u32(4, 16).u32(8, 2).bytes) },
      /flags 0x2/,
    ],
    [
      'an answer to what was never asked',
      { getInfo: () => raw(encode({ id: 999, command: 4 }, info(), { isReply: true })) },
      /answer to command 4, never asked/,
    ],
    [
      'the answer to another command',
      { getInfo: (_, { id }) => raw(encode({ id, command: 9 }, info(), { isReply: true })) },
      /answer to command 9, never asked/,
    ],
    [
      'an unknown command of its own',
      { getInfo: () => raw(encode({ id: 1, command: 13 }, new Uint8Array(0))) },
      /command 13, none of a server's/,
    ],
    [
      'descriptors that nobody asked for',
      {
        getInfo: (_, { id }) => ({
          raw: encode({ id, command: 4 }, info(), { isReply: true }),
          fds: [bench.file],
        }),
      },
      /1 descriptors that nobody asked for/,
    ],
    ['memory that it does not take', { dmaMap: () => ({ errno: 28 }) }, /refuses dmaMap, errno 28/],
    ['a reset that it refuses', { reset: () => ({ errno: 5 }) }, /refuses reset, errno 5/],
    [
      'a register of another offset',
      { regionRead: (payload) => Uint8Array.from([1, ...payload.subarray(1), 0, 0, 0, 0]) },
      /an answer to another access/,
    ],
    [
      'a register too short',
      { regionRead: (payload) => Uint8Array.from([...payload, 0, 0]) },
      /18 bytes in place of 20/,
    ],
  ];

  test.each(LIES)('a server with %s', async (_, script, text, options) => {
    const told = await bench.refusal(script, options);
    expect(told).toMatch(text);
    expect(told).toContain(`_vfio_user0.socket is ${bench.socket}: have a server`);
  });

  test('one that says nothing, and one that never ends', async () => {
    const began = performance.now();
    expect(await bench.refusal({ getInfo: () => 'silence' })).toMatch(
      /not ready|no answer to getInfo/,
    );
    expect(performance.now() - began).toBeLessThan(8000);
  }, 15_000);

  test('one that hangs up', async () => {
    const hangUp = (): Reply => {
      bench.server?.hangUp();
      return 'silence';
    };
    expect(await bench.refusal({ getIrqInfo: hangUp })).toMatch(/closed the connection|is broken/);
  });
});

test('nobody listens: refused at once, with the remedy', async () => {
  const told = await bench.connect(join(bench.folder, 'none')).catch((error) => error);
  expect(told.kind).toBe('invalid-config');
  expect(errorChain(told)).toEqual([
    'Error from device manager',
    'Cannot create a vfio-user device',
    'Connection to socket failed',
    'No such file or directory (os error 2)',
    `_vfio_user0.socket is ${join(bench.folder, 'none')}: start the server that listens there, or name another path`,
  ]);
});

describe('a server that goes wrong while the guest runs', () => {
  test('dies: whoever waits has all ones, and so has everybody later; it is told once', async () => {
    const { vm, pci, warnings, server } = await bench.open({
      script: { regionRead: (payload) => (payload[8] === 0 ? 'silence' : undefined) },
    });
    const reads = [vm.readLater(GPA + 8, 4), vm.readLater(GPA + 8, 1)];
    await expect
      .poll(() => server.names().filter((name) => name === 'regionRead').length > 65)
      .toBe(true);
    server.die();

    expect(await Promise.all(reads)).toEqual([0xffff_ffff, 0xff]);
    expect(await vm.readLater(GPA + 8, 2)).toBe(0xffff);
    await vm.writeLater(GPA + 8, 4, 1);
    await pci.space.write(COMMAND_REGISTER, 2, 0);
    expect(await pci.space.read(VENDOR + 4, 4)).toBe(0xffff_ffff);
    expect(await pci.space.read(0, 4)).toBe(0x7e57_1af4);
    await pci.memoryChanged();
    await pci[Symbol.asyncDispose]();
    expect(warnings).toEqual([expect.stringMatching(/^Device _vfio_user0: It is gone until/)]);
  });

  test('is silent: the guest has all ones after seconds, and the device is gone', async () => {
    const { vm, warnings } = await bench.open({
      script: { regionRead: (payload) => (payload[8] === 0 ? 'silence' : undefined) },
    });
    expect(await vm.readLater(GPA + 8, 4)).toBe(0xffff_ffff);
    expect(warnings).toEqual([expect.stringMatching(/no answer to regionRead within 5000 ms/)]);
  }, 15_000);

  test('refuses a register: that one reads all ones, and the device goes on', async () => {
    const { vm, warnings } = await bench.open({
      script: {
        regionRead: (payload) => (payload[0] === 8 && payload[8] === 0 ? { errno: 5 } : undefined),
        regionWrite: (payload) => (payload[0] === 8 && payload[8] === 0 ? { errno: 5 } : undefined),
      },
    });
    expect(await vm.readLater(GPA + 8, 4)).toBe(0xffff_ffff);
    await vm.writeLater(GPA + 8, 4, 7);
    expect(await vm.readLater(GPA + 12, 4)).toBe(0);
    expect(warnings.filter((text) => text.includes('gone'))).toEqual([]);
  });

  test('asks to read memory by message: it is refused, for it has it to map', async () => {
    const { server, vm } = await bench.open();
    const payload = new Writer(16).u64(0, 0).u64(8, 4).bytes;
    server.say(encode({ id: 5, command: COMMAND.dmaRead }, payload));
    await expect.poll(() => server.refusals).toEqual([95]);
    expect(await vm.readLater(GPA + 8, 4)).toBe(0);
  });

  test('sends descriptors with what nobody asked: they are closed, and it is gone', async () => {
    const { server, warnings, vm } = await bench.open();
    server.say(encode({ id: 5, command: COMMAND.dmaRead }, new Uint8Array(16)), [bench.file]);
    await expect.poll(() => warnings.length).toBe(1);
    expect(warnings[0]).toMatch(/1 descriptors that nobody asked for/);
    expect(await vm.readLater(GPA + 8, 4)).toBe(0xffff_ffff);
    expect(bench.openCount).toBe(1);
  });
});
