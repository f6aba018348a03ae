import { describe, expect, test } from 'vitest';
import { MIB } from '../../../src/bytes.ts';
import { ConfigSpace } from '../../../src/devices/pci/config-space.ts';
import { errorChain, VmmError } from '../../../src/errors.ts';
import type { GuestMemory } from '../../../src/native.ts';
import { object } from '../../../src/schema.ts';
import type { Kinds } from '../../../src/vmm/devices.ts';
import type { PciDevices } from '../../../src/vmm/pci-devices.ts';
import { Echo } from '../support/echo.ts';
import { NO_MEMORY } from '../support/fake-host.ts';
import { AREA, machine } from '../support/pci-machine.ts';

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
  void bus.ecam.write((1 << 15) + 0x10, 4, 0x8000_0000);
  void bus.ecam.write((1 << 15) + 0x14, 4, 1);
  void bus.ecam.write((1 << 15) + 4, 2, 6);
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
  const { attach } = machine(undefined, {}, { gpa: 2 ** 32, sizeBytes: 8 * MIB });
  await expect(attach({ plain: [{ id: 'a' }, { id: 'b' }] })).rejects.toThrow(
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
  void bus.ecam.write((1 << 15) + 4, 2, 6);
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

/** RAM that knows what was added to it. */
function countingMemory() {
  const regions = new Map<number, number>();
  const memory: GuestMemory = {
    ...NO_MEMORY,
    addRegion: ({ gpa, sizeBytes }) => void regions.set(gpa, sizeBytes),
    removeRegion: async (gpa) => void regions.delete(gpa),
  };
  return { memory, regions };
}

/** A kind that has a file mapped; where is in `gpas`. */
function mapped(gpas: number[], make = () => new Echo()): Kinds {
  const create: Kinds[string]['create'] = (_, { mapFile }) => {
    const mapping = { sizeBytes: 2 * MIB, fd: 0, mergeable: false };
    gpas.push(mapFile({ ...mapping, privateCopy: false, readonly: false }));
    return make();
  };
  return { mapped: { schema: object({}), idPrefix: '_mapped', create } };
}

describe('plugging', () => {
  test('a device gets the lowest free slot and a BAR above 4 GiB, and the guest is told', async () => {
    const { attach, wanted, told, slots } = machine();
    const devices = await attach({ plain: [{ id: 'a' }, { id: 'c', pci_device_id: 3 }] });

    expect(await devices.add(wanted('disks', { id: 'b' }))).toEqual({
      id: 'b',
      bdf: '0000:00:02.0',
    });

    expect(told).toEqual(['plug 2']);
    expect(slots().slice(0, 5)).toEqual([0x0d57, 0x106a, 0x106a, 0x106a, 0xffff]);
    expect(nodes(devices)).toContainEqual(['b', '0000:00:02.0', 'Mmio64', 'fffe800000']);
  });

  test('the slot that it asks for is its own, or refused', async () => {
    const { attach, wanted, made } = machine();
    const devices = await attach({});
    const { bdf } = await devices.add(wanted('plain', { id: 'a', pci_device_id: 20 }));
    expect(bdf).toBe('0000:00:14.0');

    const again = devices.add(wanted('plain', { id: 'b', pci_device_id: 20 }));
    await expect(again).rejects.toMatchObject({ kind: 'conflict' });
    expect(made).toHaveLength(1);
  });

  test('of more than 31 the last is refused, and fits when another has gone', async () => {
    const { attach, wanted } = machine();
    const devices = await attach({});
    for (let n = 0; n < 31; n++) await devices.add(wanted('plain', { id: `p${n}` }));
    const failure: unknown = await devices.add(wanted('plain', { id: 'x' })).catch((e) => e);
    expect(errorChain(failure)[0]).toBe('Could not find an available device slot on the PCI bus');

    devices.remove('p7');
    devices.eject({ segment: 0, slot: 8 });
    await devices.pause();
    expect(await devices.add(wanted('plain', { id: 'x' }))).toMatchObject({ bdf: '0000:00:08.0' });
  });

  test('an id is in use until the guest has let go of it', async () => {
    const { attach, wanted } = machine();
    const devices = await attach({ plain: [{ id: 'a' }] });
    devices.remove('a');
    const again = devices.add(wanted('plain', { id: 'a' }));
    await expect(again).rejects.toMatchObject({ kind: 'conflict' });
  });

  test('a failed add leaves nothing, and the next gets what it would have had', async () => {
    const { memory, regions } = countingMemory();
    const gpas: number[] = [];
    const { attach, wanted, vm, told } = machine(undefined, mapped(gpas));
    const devices = await attach({}, memory);
    vm.refuse = (what) => what === 'msi';
    const failing = devices.add(wanted('mapped', { id: 'a' }));
    await expect(failing).rejects.toMatchObject({ kind: 'host' });
    expect([...regions]).toEqual([]);
    expect([devices.nodes, told, vm.claims]).toEqual([{}, [], []]);

    vm.refuse = () => false;
    expect(await devices.add(wanted('mapped', { id: 'a' }))).toMatchObject({ bdf: '0000:00:01.0' });
    expect(gpas[1]).toBe(gpas[0]);
  });

  test('who serves queues elsewhere is told of a file before the guest is', async () => {
    const { memory } = countingMemory();
    const { attach, wanted, told, made } = machine(
      () => Object.assign(new Echo(), { memoryChanged: async () => void told.push('memory') }),
      mapped([]),
    );
    const devices = await attach({ plain: [{ id: 'a' }] }, memory);

    await devices.add(wanted('mapped', { id: 'm' }));

    expect(made).toHaveLength(1);
    expect(told).toEqual(['memory', 'plug 2']);
  });

  test('a file is refused if a device could not be told of it', async () => {
    const { memory, regions } = countingMemory();
    const { attach, wanted } = machine(
      () => Object.assign(new Echo(), { regionsMax: 0 }),
      mapped([]),
    );
    const devices = await attach({ plain: [{ id: 'a' }] }, memory);

    const adding = devices.add(wanted('mapped', { id: 'm' }));

    await expect(adding).rejects.toMatchObject({ kind: 'invalid-config' });
    expect([...regions]).toEqual([]);
  });

  test('a file keeps clear of BARs, and of where Linux is about to put some', async () => {
    const gpas: number[] = [];
    const { attach, wanted, bus } = machine(undefined, mapped(gpas));
    const devices = await attach({ plain: [{ id: 'a' }] });
    const lowest = AREA.pci64.gpa;
    // The guest moves the BAR 256 MiB into the window.
    void bus.ecam.write((1 << 15) + 0x10, 4, 256 * MIB);
    void bus.ecam.write((1 << 15) + 0x14, 4, lowest / 2 ** 32);
    void bus.ecam.write((1 << 15) + 4, 2, 6);

    await devices.add(wanted('mapped', { id: 'm' }));
    await devices.add(wanted('mapped', { id: 'n' }));

    expect(gpas.map((gpa) => (gpa - lowest) / MIB)).toEqual([128, 512]);
  });
});

describe('unplugging', () => {
  test('a device goes when the guest lets go of it, and its slot answers no more', async () => {
    const { memory, regions } = countingMemory();
    const { attach, wanted, vm, slots, told, removed } = machine(undefined, mapped([]));
    const devices = await attach({ plain: [{ id: 'a' }] }, memory);
    await devices.add(wanted('mapped', { id: 'm' }));
    devices.remove('m');
    devices.remove('m');
    expect(Object.keys(devices.nodes)).toContain('m');

    devices.eject({ segment: 0, slot: 2 });
    devices.eject({ segment: 0, slot: 2 });
    expect(slots()[2]).toBe(0xffff);
    expect(vm.claims).toEqual([]);
    await devices.pause();

    expect(Object.keys(devices.nodes)).toEqual(['_virtio-pci-a', 'a']);
    expect([...regions]).toEqual([]);
    expect(told).toEqual(['plug 2', 'unplug 2', 'unplug 2', 'forget 2']);
    expect(removed).toEqual(['m 0000:00:02.0']);
  });

  test('what the host did not ask for stays, whatever the guest lets go of', async () => {
    const { attach, slots } = machine();
    const devices = await attach({ plain: [{ id: 'a' }], single: {} });
    for (let slot = 0; slot < 32; slot++) devices.eject({ segment: 0, slot: slot });
    await devices.pause();
    expect(Object.keys(devices.nodes)).toHaveLength(4);
    expect(slots().slice(1, 3)).toEqual([0x106a, 0x106a]);
  });

  test('devices of which each VM has one stay, and others are unknown', async () => {
    const { attach } = machine();
    const devices = await attach({ single: {} });
    for (const [id, kind] of [
      ['__single', 'invalid-config'],
      ['_virtio-pci-__single', 'not-found'],
      ['x', 'not-found'],
    ] as const)
      expect(() => devices.remove(id)).toThrow(expect.objectContaining({ kind }));
  });

  test('its kicks and interrupts go with it, while its driver is at work', async () => {
    const { attach, wanted, bus, vm, made } = machine();
    const devices = await attach({});
    await devices.add(wanted('plain', { id: 'a' }));
    void bus.ecam.write((1 << 15) + 4, 2, 6);
    expect([vm.claims.length, vm.kicks.size]).toEqual([1, 2]);

    devices.remove('a');
    devices.eject({ segment: 0, slot: 1 });
    expect([vm.claims.length, vm.kicks.size]).toEqual([0, 0]);
    await devices.pause();

    expect(vm.msis.map(({ calls }) => calls.at(-1))).toEqual(['close', 'close', 'close']);
    expect(made[0]?.[1].calls).toEqual(['reset', 'dispose']);
  });

  test('a pause and an end wait for what is going, and do not touch it', async () => {
    let finish = () => {};
    const slow = Object.assign(new Echo(), {
      resetDone: new Promise<void>((resolve) => {
        finish = resolve;
      }),
    });
    const { attach, made } = machine(() => slow);
    const devices = await attach({ plain: [{ id: 'a' }] });
    devices.remove('a');
    devices.eject({ segment: 0, slot: 1 });

    const order: string[] = [];
    const paused = devices.pause().then(() => order.push('paused'));
    devices.resume();
    const ended = devices.dispose().then(() => order.push('ended'));
    await new Promise((resolve) => setImmediate(resolve));
    expect(order).toEqual([]);
    finish();
    await Promise.all([paused, ended]);

    expect(made[0]?.[1].calls).toEqual(['reset', 'dispose']);
  });

  test('a hundred times over leave nothing behind', async () => {
    const { attach, wanted, vm } = machine();
    const devices = await attach({});
    for (let n = 0; n < 100; n++) {
      expect(await devices.add(wanted('plain', { id: 'a' }))).toMatchObject({
        bdf: '0000:00:01.0',
      });
      devices.remove('a');
      devices.eject({ segment: 0, slot: 1 });
      await devices.pause();
    }
    expect([devices.nodes, vm.claims, vm.kicks.size]).toEqual([{}, [], 0]);
    expect(vm.msis.every(({ calls }) => calls.at(-1) === 'close')).toBe(true);
  });
});
