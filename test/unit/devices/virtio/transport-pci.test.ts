import fc from 'fast-check';
import { expect, test } from 'vitest';
import { allOnes } from '../../../../src/bytes.ts';
import { F_VERSION_1 } from '../../../../src/devices/virtio/device.ts';
import {
  ACKNOWLEDGE,
  DEVICE_CONFIG,
  Driver,
  ISR,
  MSIX_PENDING,
  MSIX_TABLE,
  NEEDS_RESET,
  NOTHING,
  NOTIFY,
  RUNNING,
} from '../../support/driver.ts';
import { Echo } from '../../support/echo.ts';
import { FakeVm } from '../../support/fake-host.ts';

const COMMAND = 0x04;
const BAR_LOW = 0x10;
const BAR_HIGH = 0x14;
const ALL = 0xffff_ffff;
const BAR_BYTES = 0x8_0000;
const BYTES = Uint8Array.of(1, 2, 3);

function create(options: ConstructorParameters<typeof Echo>[0] = {}) {
  const device = new Echo(options);
  return { device, driver: new Driver(device) };
}

const turn = () => new Promise((resolve) => setImmediate(resolve));

/** The capabilities as a driver finds them: [offset, id, type, part's offset, its length]. */
function capabilities({ pci: { space } }: Driver): number[][] {
  const found: number[][] = [];
  for (let at = space.read(0x34, 1); at !== 0; at = space.read(at + 1, 1))
    found.push([
      at,
      space.read(at, 1),
      ...[3, 8, 12].map((field) => space.read(at + field, field === 3 ? 1 : 4)),
    ]);
  return found;
}

class Disk extends Echo {
  override readonly virtioId = 2;
}
class Card extends Echo {
  override readonly virtioId = 1;
}

test.each([
  [new Echo(), 0x106a_1af4, 0xffff_0001],
  [new Disk(), 0x1042_1af4, 0x0180_0001],
  [new Card(), 0x1041_1af4, 0x0200_0001],
])('the function says what it is: %#', (device, identity, classAndRevision) => {
  const { space } = new Driver(device).pci;
  expect(space.read(0x00, 4)).toBe(identity);
  expect(space.read(0x08, 4)).toBe(classAndRevision);
  expect(space.read(0x2c, 4)).toBe(identity);
  expect([space.read(0x0e, 1), space.read(0x3c, 2)]).toEqual([0, 0]); // no pin, no line
});

test('the capabilities lie where drivers have always found them', () => {
  const { driver } = create();
  expect(capabilities(driver).slice(0, 5)).toEqual([
    [0x40, 9, 1, 0x0000, 56],
    [0x50, 9, 3, 0x2000, 1],
    [0x60, 9, 4, 0x4000, 0x1000],
    [0x70, 9, 2, 0x6000, 0x1000],
    [0x84, 9, 5, 0, 0],
  ]);
  const { space } = driver.pci;
  expect([0x42, 0x72, 0x86].map((at) => space.read(at, 1))).toEqual([16, 20, 20]);
  expect(space.read(0x80, 4)).toBe(4); // notify multiplier
  expect([space.read(0x98, 1), space.read(0x99, 1), space.read(0x9a, 2)]).toEqual([0x11, 0, 2]);
  expect([space.read(0x9c, 4), space.read(0xa0, 4)]).toEqual([MSIX_TABLE, MSIX_PENDING]);
});

test('a device without configuration has no capability for it, and the rest moves up', () => {
  const { driver } = create({ configBytes: 0 });
  expect(capabilities(driver).map(([at, , type]) => [at, type])).toEqual([
    [0x40, 1],
    [0x50, 3],
    [0x60, 2],
    [0x74, 5],
    [0x88, 0], // MSI-X
  ]);
});

test('a driver starts it, and a request is answered with one interrupt of its queue', async () => {
  const { driver } = create();
  driver.start();
  expect(await driver.request(1, BYTES, 8)).toEqual(BYTES);
  expect([0, 1, 2].map((vector) => driver.interrupts(vector))).toEqual([0, 0, 1]);
});

test('queues are built as the driver set them up, and only those that it enabled', () => {
  const { driver, device } = create({ queueSizes: [256, 64, 32] });
  driver.negotiate(F_VERSION_1 | (1n << 29n));
  driver.setUpQueue(1);
  driver.set('queueSize', 16);
  driver.set('status', RUNNING);

  expect(device.activation?.queues.map((queue) => queue !== undefined)).toEqual([
    false,
    true,
    false,
  ]);
  expect(driver.built.map(({ options }) => options)).toMatchObject([
    {
      ...{ size: 16, descGpa: 0x2_0000, availGpa: 0x2_1000, usedGpa: 0x2_2000 },
      ...{ indirect: false, eventIdx: true },
    },
  ]);
});

test('device configuration is read in 1, 2 and 4 bytes anywhere within it', () => {
  const { driver, device } = create({ configBytes: 10 });
  const view = new DataView(device.config.buffer);
  for (let at = 0; at < 10; at++) {
    expect(driver.read(DEVICE_CONFIG + at, 1)).toBe(view.getUint8(at));
    expect(driver.read(DEVICE_CONFIG + at, 2)).toBe(at < 9 ? view.getUint16(at, true) : 0xffff);
    expect(driver.read(DEVICE_CONFIG + at, 4)).toBe(at < 7 ? view.getUint32(at, true) : ALL);
  }
});

test('device configuration is written by a driver that has shown itself, within it', async () => {
  const { driver, device } = create();
  driver.write(DEVICE_CONFIG, 1, 7);
  driver.set('status', ACKNOWLEDGE);
  driver.write(DEVICE_CONFIG + 2, 2, 0x1234);
  driver.write(DEVICE_CONFIG + 6, 4, 1);
  driver.set('status', 0);
  driver.write(DEVICE_CONFIG, 1, 8); // while the reset is under way
  await driver.reset();
  expect(device.calls).toEqual(['writeConfig 2 2 4660', 'reset']);
});

test('a change of the configuration is counted, told by vector and ISR, and ends with a reset', async () => {
  const { driver, device } = create();
  driver.start();
  const { activation } = device;
  activation?.configChanged();
  expect([driver.get('generation'), driver.interrupts(0), driver.read(ISR, 1)]).toEqual([1, 1, 2]);
  expect(driver.read(ISR, 1)).toBe(0);

  await driver.reset();
  activation?.configChanged();
  expect([driver.get('generation'), driver.interrupts(0), driver.read(ISR, 1)]).toEqual([1, 1, 0]);
});

test('a driver without MSI-X finds in the ISR what has happened, once', async () => {
  const { driver, device } = create();
  driver.start({ vectors: false });
  await driver.request(0, BYTES, 3);
  device.activation?.configChanged();

  expect([driver.read(ISR, 2), driver.read(ISR + 1, 1)]).toEqual([0xffff, 0xff]);
  expect([driver.read(ISR, 1), driver.read(ISR, 1)]).toEqual([3, 0]);
  expect(driver.vm.msis.flatMap(({ sent }) => sent)).toEqual([]);
});

test('a queue that breaks has the device ask for a reset, and leaves the others at work', async () => {
  const { driver } = create();
  driver.start();

  driver.queue(0).breakDown('descriptor chain longer than the queue');

  expect(driver.status).toBe(RUNNING | NEEDS_RESET);
  expect([driver.interrupts(0), driver.read(ISR, 1)]).toEqual([1, 2]);
  expect(driver.warnings).toEqual(['Queue 0 is broken: descriptor chain longer than the queue']);
  expect(await driver.request(1, BYTES, 3)).toEqual(BYTES);
  driver.set('status', RUNNING);
  expect(driver.status).toBe(RUNNING | NEEDS_RESET);
});

test('what an earlier life of the device says late is not heard', async () => {
  const { driver, device } = create();
  driver.start();
  const [{ activation }, queue] = [device, driver.queue(0)];
  await driver.reset();
  driver.start();

  activation?.needsReset('late');
  queue.breakDown('late');

  expect([driver.status, driver.warnings, driver.interrupts(0)]).toEqual([RUNNING, [], 0]);
});

test('a reset takes the queues from the device, and old requests lead nowhere', async () => {
  const { driver, device } = create();
  driver.start({ queues: [] });
  await driver.reset();
  driver.start();
  device.calls.length = 0;
  const [queue] = driver.built;
  const unanswered = driver.offer(0, BYTES, 3);
  const taken = queue?.take();

  await driver.reset();
  taken?.complete(3);

  expect([queue?.isClosed, unanswered.completeCount, driver.interrupts(1)]).toEqual([true, 0, 0]);
});

test('a device that cannot start needs a reset, and has no queues open', () => {
  const { driver, device } = create();
  device.activate = () => {
    throw new Error('EMFILE: Too many open files');
  };
  driver.start();
  expect(driver.status).toBe(RUNNING | NEEDS_RESET);
  expect(driver.built.map(({ isClosed }) => isClosed)).toEqual([true, true]);
  expect(driver.warnings).toEqual(['It cannot start: EMFILE: Too many open files']);
});

test('a kick is the kernel’s; one that it does not take, or an odd one, signals all the same', () => {
  const vm = new FakeVm();
  const refused = new Set([1]);
  let asked = 0;
  vm.refuse = (what) => what === 'kick' && refused.has(asked++);
  const device = new Echo({ queueSizes: [8, 8, 8] });
  const driver = new Driver(device, { vm });
  driver.start();

  const base = driver.barGpa + NOTIFY;
  expect([...vm.kicks.keys()]).toEqual([base, base + 8]);
  const kick = driver.built[1]?.options.kick;
  for (const [offset, sizeBytes] of [
    [4, 2],
    [4, 4],
    [4, 1],
    [6, 2],
    [5, 1],
    [12, 2],
    [0xffc, 4],
  ] as const)
    vm.write(base + offset, sizeBytes, 0xffff);
  expect(kick).toMatchObject({ signalCount: 3 });
  expect(driver.read(NOTIFY, 2)).toBe(0xffff);
  driver.config(COMMAND, 2, 0);
  expect(vm.kicks.size).toBe(0);
});

/** Where the BAR is put, in configuration space and all at once. */
function move(driver: Driver, gpa: number): void {
  driver.config(COMMAND, 2, 0);
  driver.config(BAR_LOW, 4, gpa % 2 ** 32);
  driver.config(BAR_HIGH, 4, Math.floor(gpa / 2 ** 32));
  driver.config(COMMAND, 2, 6);
}

const kickPlaces = (gpa: number) => [gpa + NOTIFY, gpa + NOTIFY + 4];

test('the BAR moves with all that is in it, and goes when decoding is turned off', async () => {
  const { driver } = create();
  driver.start();
  const { vm } = driver;
  expect([...vm.kicks.keys()]).toEqual(kickPlaces(0xff_ff80_0000));

  move(driver, 0x1_8000_0000);
  expect(driver.barGpa).toBe(0x1_8000_0000);
  expect([...vm.kicks.keys()]).toEqual(kickPlaces(0x1_8000_0000));
  expect(vm.claims).toMatchObject([{ space: 'mmio', base: 0x1_8000_0000, sizeBytes: BAR_BYTES }]);
  expect(await driver.request(0, BYTES, 3)).toEqual(BYTES);

  driver.config(COMMAND, 2, 0);
  expect([vm.kicks.size, vm.claims, driver.status]).toEqual([0, [], 0xff]);
  driver.config(COMMAND, 2, 6);
  expect([vm.kicks.size, driver.status]).toEqual([2, RUNNING]);
});

test('a BAR put where something else answers answers nowhere, until it is moved off', async () => {
  const vm = new FakeVm();
  const other = new Driver(new Echo(), { vm });
  const driver = new Driver(new Echo(), { vm, bar: { width: 64, gpa: 0xff_ff00_0000 } });
  other.start();
  driver.start();

  move(driver, 0xff_ff80_0000);
  expect([...vm.kicks.keys()]).toEqual(kickPlaces(0xff_ff80_0000));
  expect(await other.request(0, BYTES, 3)).toEqual(BYTES);

  move(driver, 0xff_ff00_0000);
  expect(vm.kicks.size).toBe(4);
  expect(await driver.request(0, BYTES, 3)).toEqual(BYTES);
});

test('wherever a guest moves two BARs, what answers has its kicks, and nothing else is left', () => {
  const places = [0, 0x10_0000, 0xff_ff80_0000, 0xff_ff00_0000, 0xe7f8_0000, 2 ** 52 - BAR_BYTES];
  const step = fc.record({
    which: fc.nat(1),
    at: fc.constantFrom(COMMAND, BAR_LOW, BAR_HIGH),
    value: fc.oneof(
      fc.constantFrom(0, 6, ALL),
      fc.constantFrom(...places).map((gpa) => gpa % 2 ** 32),
      fc.constantFrom(...places).map((gpa) => Math.floor(gpa / 2 ** 32)),
    ),
  });
  fc.assert(
    fc.property(fc.array(step, { maxLength: 40 }), (steps) => {
      const vm = new FakeVm();
      const a = new Driver(new Echo(), { vm });
      const b = new Driver(new Echo(), { vm, bar: { width: 64, gpa: 0xff_ff00_0000 } });
      for (const { which, at, value } of steps) {
        [a, b][which]?.config(at, at === COMMAND ? 2 : 4, value % (at === COMMAND ? 8 : 2 ** 32));
        const expected = vm.claims.flatMap(({ base }) => kickPlaces(base)).sort();
        expect([...vm.kicks.keys()].sort()).toEqual(expected);
        expect(
          vm.claims.every(({ handler, base }) =>
            [a, b].some(({ pci, barGpa }) => pci === handler && barGpa === base),
          ),
        ).toBe(true);
      }
      for (const driver of [a, b]) driver.config(COMMAND, 2, 0);
      expect([vm.claims, vm.kicks.size]).toEqual([[], 0]);
    }),
  );
});

/** Points the window of the access capability into the BAR. */
function point(driver: Driver, offset: number, sizeBytes: number, bar = 0): void {
  driver.config(0x84 + 4, 1, bar);
  driver.config(0x84 + 8, 4, offset);
  driver.config(0x84 + 12, 4, sizeBytes);
}

test('a driver without access to memory gets at the BAR through configuration space', async () => {
  const { driver } = create();
  driver.start();
  driver.config(COMMAND, 2, 0); // the BAR answers nowhere
  const { space } = driver.pci;
  const window = 0x84 + 16;

  point(driver, 20, 1);
  expect(space.read(window, 4)).toBe(RUNNING);
  point(driver, DEVICE_CONFIG, 4);
  expect(space.read(window, 4)).toBe(0x1312_1110);
  point(driver, NOTIFY + 4, 2);
  driver.config(window, 2, 1);
  expect(driver.built[1]?.options.kick).toMatchObject({ signalCount: 1 });
  point(driver, 22, 2);
  driver.config(window, 4, 0xabcd_0001);
  expect(driver.pci.read(22, 2)).toBe(1);
});

test('the window is read only where its data is, so looking at its place clears nothing', () => {
  const { driver, device } = create();
  driver.start();
  device.activation?.configChanged();
  point(driver, ISR, 1);
  for (let at = 0x84; at < 0x94; at += 4) driver.pci.space.read(at, 4);
  expect(driver.pci.space.read(0x94, 1)).toBe(2);
});

test.each([
  ['no width', 20, 0, 0],
  ['a width of three', 21, 3, 0],
  ['a width of eight', 32, 8, 0],
  ['another BAR', 20, 1, 1],
  ['beyond the BAR', BAR_BYTES, 4, 0],
  ['across its end', ALL, 4, 0],
  ['a misaligned place', 21, 2, 0],
])('a window that points at %s does nothing', (_what, offset, sizeBytes, bar) => {
  const { driver } = create();
  driver.start();
  point(driver, offset, sizeBytes, bar);
  driver.config(0x94, 4, 0);
  expect(driver.pci.space.read(0x94, 4)).toBe(0);
  expect(driver.status).toBe(RUNNING);
});

test('no access of any place and width throws, and none reads more than its width', () => {
  const access = fc.record({
    write: fc.boolean(),
    offset: fc.oneof(
      fc.integer({ min: -16, max: BAR_BYTES + 16 }),
      fc
        .constantFrom(0, 0x2000, 0x4000, 0x6000, 0x8000, 0x4_8000)
        .chain((part) => fc.integer({ min: part - 4, max: part + 64 })),
    ),
    sizeBytes: fc.constantFrom(1, 2, 3, 4, 8, 16),
    value: fc.nat(ALL),
  });
  fc.assert(
    fc.property(
      fc.array(access, { minLength: 1, maxLength: 40 }),
      fc.boolean(),
      (accesses, started) => {
        const { driver } = create();
        if (started) driver.start();
        for (const { write, offset, sizeBytes, value } of accesses) {
          if (write) driver.pci.write(offset, sizeBytes, value % 2 ** (8 * sizeBytes));
          const read = driver.pci.read(offset, sizeBytes);
          expect(Number.isInteger(read) && read >= 0 && read <= allOnes(sizeBytes)).toBe(true);
        }
      },
    ),
    { numRuns: 300 },
  );
});

test('between its parts the BAR reads all ones', () => {
  const { driver } = create();
  for (const at of [
    56, 0x1ffc, 0x2004, 0x3ffc, 0x5000, 0x7000, 0x8030, 0x1_0000, 0x4_8008, 0x7_fffc,
  ])
    for (const sizeBytes of [1, 2, 4])
      expect(driver.read(at, sizeBytes)).toBe(2 ** (8 * sizeBytes) - 1);
});

test('a pause waits for requests and device, and a resume goes on with what came meanwhile', async () => {
  const { driver, device } = create();
  driver.start();
  await turn();
  const out = driver.offer(0, BYTES, 3);
  const chain = driver.queue(0).take();
  const paused = driver.pci.pause();
  let isPaused = false;
  void paused.then(() => {
    isPaused = true;
  });
  await turn();
  expect([isPaused, device.calls]).toEqual([false, ['activate', 'pause']]);
  chain?.complete(0);
  await paused;
  await out.done;

  const waiting = driver.request(1, BYTES, 3);
  await turn();
  expect(driver.queue(1).waitingCount).toBe(1);
  driver.pci.resume();
  expect(await waiting).toEqual(BYTES);
});

test('a pause in the middle of a reset waits for that', async () => {
  const { driver, device } = create();
  driver.start();
  let finish = () => {};
  device.resetDone = new Promise((resolve) => {
    finish = resolve;
  });
  driver.set('status', 0);
  const paused = driver.pci.pause();
  await turn();
  expect(device.calls).toEqual(['activate', 'reset']);

  finish();
  await paused;
  expect([driver.status, device.calls]).toEqual([0, ['activate', 'reset', 'pause']]);
});

test('its end resets the device, disposes of it, and closes every eventfd and interrupt', async () => {
  const { driver, device } = create();
  driver.start();
  const { kicks, msis } = driver.vm;
  const queueKicks = [...kicks.values()];

  await driver.pci[Symbol.asyncDispose]();

  expect(device.calls).toEqual(['activate', 'reset', 'dispose']);
  expect(driver.built.map(({ isClosed }) => isClosed)).toEqual([true, true]);
  expect(queueKicks).toMatchObject([{ isClosed: true }, { isClosed: true }]);
  expect(msis.map(({ calls }) => calls.at(-1))).toEqual(['close', 'close', 'close']);
});

test('a device that cannot be reset is disposed of all the same', async () => {
  const { driver, device } = create();
  device.resetDone = Promise.reject(new Error('stuck'));
  await driver.pci[Symbol.asyncDispose]();
  expect(device.calls).toEqual(['reset', 'dispose']);
});

test('a host without interrupts has the function fail whole', () => {
  const vm = new FakeVm();
  vm.refuse = (what) => what === 'msi' && vm.msis.length === 1;
  expect(() => new Driver(new Echo(), { vm })).toThrow('ENOSPC');
  expect(vm.msis.map(({ calls }) => calls)).toEqual([['close']]);
});

test('nothing is asked for that the driver has not enabled', async () => {
  const { driver } = create();
  driver.start({ queues: [1] });
  driver.kick(0);
  expect(await driver.request(1, NOTHING, 3)).toEqual(NOTHING);
  expect(driver.built).toHaveLength(1);
});
