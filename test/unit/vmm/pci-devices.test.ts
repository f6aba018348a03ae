import { expect, test } from 'vitest';
import { MIB } from '../../../src/bytes.ts';
import { PciBus } from '../../../src/devices/pci/bus.ts';
import { ConfigSpace } from '../../../src/devices/pci/config-space.ts';
import { errorChain, VmmError } from '../../../src/errors.ts';
import type { Native } from '../../../src/native.ts';
import { object } from '../../../src/schema.ts';
import { type Kinds, pciDevices } from '../../../src/vmm/devices.ts';
import { deviceArea, MEMORY } from '../../../src/vmm/layout.ts';
import { PciDevices } from '../../../src/vmm/pci-devices.ts';
import { Echo } from '../support/echo.ts';
import { FakeCharHost } from '../support/fake-char-host.ts';
import { FakeEventFd, FakeVirtqueue, FakeVm, NO_MEMORY } from '../support/fake-host.ts';

const NO_BLOCKS = { gpa: 0, regionBytes: 0, blockBytes: 1, usableBytes: 0, requestedBytes: 0 };
const AREA = deviceArea(40, 512 * MIB);

/** A machine with two kinds of toy: `plain` ones, and `disks`, whose BARs have 32 bits. */
function machine(make: (id: string) => Echo = () => new Echo(), others: Kinds = {}) {
  const made: [id: string, device: Echo][] = [];
  const warnings: string[] = [];
  const create = (_: unknown, { id }: { id: string }) => {
    const device = make(id);
    made.push([id, device]);
    return device;
  };
  const schema = object({});
  const kinds: Kinds = {
    disks: {
      schema,
      idPrefix: '_disk',
      barWidth: 32,
      create,
      found: () => ({ image_type: 'Raw' }),
    },
    plain: { schema, idPrefix: '_plain', create },
    single: { schema, id: '__single', create },
    unserved: { schema, id: '__unserved' },
    ...others,
  };
  const vm = new FakeVm();
  const bus = new PciBus({
    port: 0xcf8,
    ecam: { gpa: MEMORY.ecam.gpa, sizeBytes: MIB },
    window32: MEMORY.pci32,
    window64: AREA.pci64,
  });
  const native = { EventFd: FakeEventFd, Virtqueue: FakeVirtqueue } as Pick<
    Native,
    'EventFd' | 'Virtqueue'
  >;
  const attach = (config: object, area = AREA) =>
    PciDevices.attach(pciDevices(config, kinds), {
      ...{ bus, area, vm, native, memory: NO_MEMORY, console: new FakeCharHost() },
      rateLimitGroups: new Map(),
      blocks: NO_BLOCKS,
      onWarning: (message) => warnings.push(message),
      onEvent: () => {},
    });
  /** Slots of the bus that have a function, with its device id. */
  const slots = () => Array.from({ length: 32 }, (_, slot) => bus.ecam.read(slot << 15, 4) >>> 16);
  return { attach, made, warnings, vm, bus, slots };
}

const nodes = ({ nodes }: PciDevices) =>
  Object.values(nodes).flatMap(({ pci_bdf, resources, children: [id] }) =>
    resources.flatMap((resource) =>
      'PciBar' in resource
        ? [[id, pci_bdf, resource.PciBar.type_, resource.PciBar.base.toString(16)]]
        : [],
    ),
  );

test('devices get slots from 1 in order, and BARs from the top down, disks below 4 GiB', async () => {
  const { attach, slots } = machine();

  const devices = await attach({
    plain: [{ id: '_plain1' }, { id: '_plain2' }],
    disks: [{ id: '_disk0' }, { id: 'mine' }],
    single: {},
  });

  expect(nodes(devices)).toEqual([
    ['_disk0', '0000:00:01.0', 'Mmio32', 'e7f80000'],
    ['mine', '0000:00:02.0', 'Mmio32', 'e7f00000'],
    ['_plain1', '0000:00:03.0', 'Mmio64', 'ffff800000'],
    ['_plain2', '0000:00:04.0', 'Mmio64', 'ffff000000'],
    ['__single', '0000:00:05.0', 'Mmio64', 'fffe800000'],
  ]);
  expect(slots().slice(0, 7)).toEqual([0x0d57, ...Array(5).fill(0x106a), 0xffff]);
});

test('what devices count is there by id, and those that do not count are not', async () => {
  const counting = Object.assign(new Echo(), { counters: () => ({ read_ops: 3 }) });
  const { attach } = machine((id) => (id === 'a' ? counting : new Echo()));

  const devices = await attach({ disks: [{ id: 'a' }, { id: 'b' }] });

  expect(devices.counters()).toEqual({ a: { read_ops: 3 } });
});

test('a slot that is asked for is taken first, whichever device comes first', async () => {
  const { attach } = machine();
  const devices = await attach({
    disks: [{ id: 'a' }, { id: 'b' }, { id: 'c', pci_device_id: 1 }],
    plain: [{ id: 'd', pci_device_id: 31 }, { id: 'e' }],
  });
  expect(nodes(devices).map(([id, bdf]) => [id, bdf])).toEqual([
    ['a', '0000:00:02.0'],
    ['b', '0000:00:03.0'],
    ['c', '0000:00:01.0'],
    ['d', '0000:00:1f.0'],
    ['e', '0000:00:04.0'],
  ]);
});

test('a function is a node that carries its device, as clients know it', async () => {
  const { attach } = machine();
  const devices = await attach({ disks: [{ id: '_disk0' }] });
  const bar = { index: 0, base: 0xe7f8_0000, size: 524288, type_: 'Mmio32', prefetchable: false };
  expect(devices.nodes).toEqual({
    '_virtio-pci-_disk0': {
      id: '_virtio-pci-_disk0',
      resources: [{ PciBar: bar }],
      children: ['_disk0'],
      pci_bdf: '0000:00:01.0',
    },
    _disk0: { id: '_disk0', resources: [], parent: '_virtio-pci-_disk0', children: [] },
  });
});

test('a function that is no virtio device is a node with BARs of its own', async () => {
  const calls: string[] = [];
  const schema = object({});
  const kinds: Kinds = {
    bare: {
      schema,
      id: '__bare',
      create: (_, { placeBar }) => ({
        space: new ConfigSpace({ vendorId: 0x1b36, deviceId: 0x11, classCode: 0x088000 }),
        bars: [{ index: 0, width: 32, sizeBytes: 16, gpa: placeBar(32, 16) }],
        pause: async () => void calls.push('pause'),
        resume: () => void calls.push('resume'),
        unplug: () => {},
        [Symbol.asyncDispose]: async () => void calls.push('dispose'),
      }),
    },
  };
  const { attach, slots } = machine(undefined, kinds);

  const devices = await attach({ bare: {} });

  const bar = { index: 0, base: 0xe7f8_0000, size: 16, type_: 'Mmio32', prefetchable: false };
  expect(devices.nodes).toEqual({
    __bare: {
      ...{ id: '__bare', resources: [{ PciBar: bar }], children: [] },
      pci_bdf: '0000:00:01.0',
    },
  });
  expect(slots()[1]).toBe(0x11);
  await devices.pause();
  devices.resume();
  await devices.dispose();
  expect(calls).toEqual(['pause', 'resume', 'dispose']);
});

test('the tree tells where the guest has moved a BAR', async () => {
  const { attach, bus } = machine();
  const devices = await attach({ plain: [{ id: 'a' }] });
  bus.ecam.write((1 << 15) + 0x10, 4, 0x8000_0000);
  bus.ecam.write((1 << 15) + 0x14, 4, 1);
  bus.ecam.write((1 << 15) + 4, 2, 6);
  expect(nodes(devices)).toEqual([['a', '0000:00:01.0', 'Mmio64', '180000000']]);
});

test('31 devices fit, and of more the first that finds no slot is named', async () => {
  const plain = (count: number) => ({
    plain: Array.from({ length: count }, (_, i) => ({ id: `p${i}` })),
  });
  expect(nodes(await machine().attach(plain(31)))).toHaveLength(31);

  const { attach, made } = machine();
  const failure: unknown = await attach(plain(32)).catch((error: unknown) => error);

  expect(errorChain(failure)).toEqual([
    'Could not find an available device slot on the PCI bus',
    'plain[31] finds every slot taken: give the VM fewer devices',
  ]);
  expect(made).toEqual([]);
});

test('if one device cannot be made, nothing is left of those before it', async () => {
  const { attach, made, vm } = machine((id) => {
    if (id === 'b') throw new VmmError('conflict', 'The image of b is in use');
    return new Echo();
  });

  await expect(attach({ plain: [{ id: 'a' }, { id: 'b' }] })).rejects.toThrow('in use');

  expect(made.map(([id, { calls }]) => [id, calls])).toEqual([['a', ['reset', 'dispose']]]);
  expect(vm.msis.map(({ calls }) => calls)).toEqual([['close'], ['close'], ['close']]);
});

test('if the host cannot connect a device, it is disposed of and named', async () => {
  const { attach, made, vm } = machine();
  vm.refuse = (what) => what === 'msi';

  const failure: unknown = await attach({ plain: [{ id: 'a' }] }).catch((error: unknown) => error);

  expect(failure).toMatchObject({ kind: 'host' });
  expect(errorChain(failure)[0]).toBe('The host cannot connect device a');
  expect(made.map(([, { calls }]) => calls)).toEqual([['dispose']]);
});

test('a window that is full has the device refused by name', async () => {
  const { attach } = machine();
  const area = { ...AREA, pci64: { gpa: 2 ** 32, sizeBytes: 8 * MIB } };
  await expect(attach({ plain: [{ id: 'a' }, { id: 'b' }] }, area)).rejects.toThrow(
    'No addresses are left for device b',
  );
});

test('all are paused, resumed and ended together', async () => {
  const { attach, made } = machine();
  const devices = await attach({ plain: [{ id: 'a' }, { id: 'b' }] });

  await devices.pause();
  devices.resume();
  await devices.dispose();
  await devices.dispose();

  const whole = ['pause', 'resume', 'reset', 'dispose'];
  expect(made.map(([, { calls }]) => calls)).toEqual([whole, whole]);
});

test('what devices find out is kept by id, and what is odd is told with it', async () => {
  const { attach, bus, made, warnings, vm } = machine();
  const devices = await attach({ disks: [{ id: '_disk0' }], plain: [{ id: 'a' }] });
  expect([...devices.found]).toEqual([['_disk0', { image_type: 'Raw' }]]);

  const [[, device] = []] = made;
  bus.ecam.write((1 << 15) + 4, 2, 6);
  for (const [offset, sizeBytes, value] of [
    [8, 4, 1],
    [12, 4, 1],
    [20, 1, 8],
    [20, 1, 15],
  ] as const)
    vm.write(0xe7f8_0000 + offset, sizeBytes, value);
  device?.activation?.needsReset('odd');
  expect(warnings).toEqual(['Device _disk0: odd']);
});

test('a kind that nothing serves takes no slot', async () => {
  const { attach } = machine();
  expect((await attach({ unserved: {} })).nodes).toEqual({});
});
