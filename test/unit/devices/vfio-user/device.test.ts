/** A device of another process as its guest and the VMM find it. */
import { afterEach, beforeEach, expect, test } from 'vitest';
import { VFIO } from '../../../../src/native-vfio.ts';
import type { SharedRegion } from '../../../../src/native-vhost.ts';
import { forRegion, irqInfo, REGION_MMAP, regionInfo } from '../../support/scripted-server.ts';
import { COMMAND_REGISTER, GPA, UserDeviceBench } from '../../support/user-device-bench.ts';

const [MSIX, VENDOR] = [0x40, 0x50];

let bench: UserDeviceBench;

beforeEach(() => {
  bench = new UserDeviceBench();
});

afterEach(() => bench[Symbol.dispose]());

test('it is asked who it is, is reset, and has the memory before the guest has it', async () => {
  const { server } = await bench.open({}, [bench.ram(0), bench.ram(0x10_0000, true)]);

  const names = server.names().filter((name) => name !== 'regionRead');
  expect(names.slice(0, 2)).toEqual(['version', 'getInfo']);
  expect(names.slice(9, 15)).toEqual([
    ...['getIrqInfo', 'getIrqInfo', 'getIrqInfo'],
    ...['reset', 'dmaMap', 'dmaMap'],
  ]);
  const maps = server.heard.filter(({ name }) => name === 'dmaMap');
  expect(maps.map(({ fdCount }) => fdCount)).toEqual([1, 1]);
  const flags = maps.map(({ payload }) => payload.readUInt32LE(4));
  expect(flags).toEqual([3, 1]);
  const [first] = maps;
  const fields = [8, 16, 24].map((at) => Number(first?.payload.readBigUInt64LE(at)));
  expect(fields).toEqual([0x2000, 0, 0x1000]);
});

test('its registers are read and written over there, at every width', async () => {
  const { vm, server } = await bench.open();
  server.bytes[0]?.set([0x78, 0x56, 0x34, 0x12], 8);

  const read = [1, 2, 4].map((width) => vm.readLater(GPA + 8, width));
  expect(await Promise.all(read)).toEqual([0x78, 0x5678, 0x1234_5678]);
  await vm.writeLater(GPA + 16, 2, 0xbeef);
  expect([...(server.bytes[0]?.subarray(15, 19) ?? [])]).toEqual([0, 0xef, 0xbe, 0]);
});

test('of its configuration space the guest reads and writes what is the vendor’s', async () => {
  const { pci, server } = await bench.open();
  await pci.space.write(VENDOR + 4, 4, 0xcafe_f00d);
  expect(await pci.space.read(VENDOR + 4, 4)).toBe(0xcafe_f00d);
  expect(Buffer.from(server.bytes[7] ?? []).readUInt32LE(VENDOR + 4)).toBe(0xcafe_f00d);
  expect(await pci.space.read(0, 4)).toBe(0x7e57_1af4);
});

test('MSI-X is on over there when the guest’s write is done, in as many messages as it takes', async () => {
  const { pci, server } = await bench.open({ capabilities: { max_msg_fds: 2 } });
  await pci.space.write(MSIX + 2, 2, 0x8000);

  const sets = server.heard.filter(({ name }) => name === 'setIrqs').slice(-3);
  const told = sets.map(({ payload, fdCount }) => {
    const [flags, index, start, count] = [4, 8, 12, 16].map((at) => payload.readUInt32LE(at));
    return [flags, index, start, count, fdCount];
  });
  expect(told).toEqual([
    [0x21, VFIO.intx, 0, 0, 0],
    [0x24, VFIO.msix, 0, 2, 2],
    [0x24, VFIO.msix, 2, 1, 1],
  ]);
  await pci.space.write(MSIX + 2, 2, 0);
  const unmask = server.last('setIrqs');
  expect([unmask?.payload.readUInt32LE(4), unmask?.fdCount]).toEqual([0x14, 1]);
});

test('an interrupt that the server refuses is told to the log, and the device goes on', async () => {
  const { pci, warnings, vm } = await bench.open({ script: { setIrqs: () => ({ errno: 22 }) } });
  await pci.space.write(MSIX + 2, 2, 0x8000);
  expect(warnings.at(-1)).toMatch(/_vfio_user0: the server refuses setIrqs, errno 22/);
  expect(await vm.readLater(GPA + 8, 4)).toBe(0);
});

test('what can be mapped is, but for the pages of the MSI-X table', async () => {
  const areas = [
    [0, 0x2000],
    [0x3000, 0x1000],
  ];
  const payload = regionInfo(0, 0x4000, { flags: 3 | REGION_MMAP, fileOffset: 0x8000, areas });
  const getRegionInfo = forRegion(0, () => ({ payload, fds: [bench.file] }));
  const { host, pci } = await bench.open({ script: { getRegionInfo } });

  const mapped = [...host.guest.mapped.values()].map(({ gpa, offset, sizeBytes }) => [
    gpa,
    offset,
    sizeBytes,
  ]);
  expect(mapped).toEqual([
    [GPA, 0x8000, 0x1000],
    [GPA + 0x3000, 0xb000, 0x1000],
  ]);
  pci.unplug();
  expect(host.guest.mapped.size).toBe(0);
});

test('a region without areas can be mapped as a whole', async () => {
  const payload = regionInfo(0, 0x4000, { flags: 3 | REGION_MMAP });
  const getRegionInfo = forRegion(0, () => ({ payload, fds: [bench.file] }));
  const { host } = await bench.open({ script: { getRegionInfo } });
  const mapped = [...host.guest.mapped.values()].map(({ offset, sizeBytes }) => [
    offset,
    sizeBytes,
  ]);
  expect(mapped).toEqual([
    [0, 0x1000],
    [0x3000, 0x1000],
  ]);
});

test('of many areas the first are mapped, and exits serve the rest', async () => {
  const areas = Array.from({ length: 40 }, (_, i) => [0x4000 + 0x2000 * i, 0x1000]);
  const payload = regionInfo(0, 0x10_0000, { flags: 3 | REGION_MMAP, areas });
  const getRegionInfo = forRegion(0, () => ({ payload, fds: [bench.file] }));
  const { host } = await bench.open({ script: { getRegionInfo }, barBytes: [0x10_0000] });
  expect(host.guest.mapped.size).toBe(16);
});

test('memory that comes and goes is mapped and unmapped over there', async () => {
  const regions = [bench.ram(0)];
  const { pci, server } = await bench.open({}, regions);
  regions.push(bench.ram(0x10_0000));
  await pci.memoryChanged();
  regions.splice(0, 1);
  await pci.memoryChanged();
  const told = server.heard.filter(({ name }) => name === 'dmaMap' || name === 'dmaUnmap');
  expect(
    told.map(({ name, payload }) => [
      name,
      Number(payload.readBigUInt64LE(name === 'dmaMap' ? 16 : 8)),
    ]),
  ).toEqual([
    ['dmaMap', 0],
    ['dmaMap', 0x10_0000],
    ['dmaUnmap', 0],
  ]);
});

test('a server that does not follow the memory is let go of, and nobody else hears of it', async () => {
  const regions: SharedRegion[] = [];
  const { pci, vm, warnings } = await bench.open(
    { script: { dmaMap: () => ({ errno: 12 }) } },
    regions,
  );
  regions.push(bench.ram(0));
  await pci.memoryChanged();
  expect(warnings).toEqual([expect.stringMatching(/gone until .*refuses dmaMap, errno 12/)]);
  expect(await vm.readLater(GPA + 8, 4)).toBe(0xffff_ffff);
});

test('it is reset before the guest has it, and before it is let go, once', async () => {
  const { pci, server } = await bench.open();
  await pci[Symbol.asyncDispose]();
  await pci[Symbol.asyncDispose]();
  expect(server.names().filter((name) => name === 'reset')).toHaveLength(2);
  expect(server.names().at(-1)).toBe('reset');
});

test('unplugged, it may no longer read memory, and signals nothing', async () => {
  const { pci, server } = await bench.open();
  pci.unplug();
  await expect.poll(() => server.bytes[VFIO.configRegion]?.[COMMAND_REGISTER]).toBe(2);
  const off = server.last('setIrqs');
  expect([off?.payload.readUInt32LE(4), off?.payload.readUInt32LE(16)]).toEqual([0x21, 0]);
});

test('hot reads from several vCPUs each have their own answer', async () => {
  const { vm, server } = await bench.open();
  server.bytes[0]?.set(Uint8Array.from({ length: 256 }, (_, i) => i));
  const reads = Array.from({ length: 200 }, (_, i) => vm.readLater(GPA + i, 1));
  expect(await Promise.all(reads)).toEqual(Array.from({ length: 200 }, (_, i) => i));
});

test('nothing stays open: neither of a device that was, nor of one that was refused', async () => {
  const payload = regionInfo(0, 0x4000, { flags: 3 | REGION_MMAP });
  const getRegionInfo = forRegion(0, () => ({ payload, fds: [bench.file] }));
  const cycle = async () => {
    const { pci } = await bench.open({ script: { getRegionInfo } });
    await pci[Symbol.asyncDispose]();
    await bench.refusal({ getRegionInfo, getIrqInfo: () => irqInfo(0, 77) });
    bench.server?.die();
    await new Promise((resolve) => setTimeout(resolve, 10));
  };
  for (let i = 0; i < 3; i++) await cycle();
  expect(bench.openCount).toBe(1);
});
