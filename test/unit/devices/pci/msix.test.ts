import fc from 'fast-check';
import { expect, test, vi } from 'vitest';
import { ConfigSpace } from '../../../../src/devices/pci/config-space.ts';
import { Msix } from '../../../../src/devices/pci/msix.ts';
import { FakeEventFd, FakeMsi } from '../../support/fake-host.ts';

const CONTROL = 0x42;
const ENABLE = 0x8000;
const FUNCTION_MASK = 0x4000;
const ALL = 0xffff_ffff;

function create(vectorCount = 3) {
  const irqs: FakeEventFd[] = [];
  const msis: FakeMsi[] = [];
  const space = new ConfigSpace({ vendorId: 1, deviceId: 1, classCode: 0 });
  const msix = new Msix(space, {
    ...{ vectorCount, bar: 0, tableOffset: 0x8000, pendingOffset: 0x4_8000 },
    openEventFd: () => {
      const irq = new FakeEventFd();
      irqs.push(irq);
      return irq;
    },
    openMsi: (irq) => {
      const msi = new FakeMsi(irq as FakeEventFd);
      msis.push(msi);
      return msi;
    },
  });
  const control = (value: number) => space.write(CONTROL, 2, value);
  /** As Linux sets an entry up: masked, then its three words, then unmasked. */
  const arm = (vector: number, data: number) => {
    for (const [word, value] of [
      [3, 1],
      [0, 0xfee0_0000],
      [1, 0],
      [2, data],
      [3, 0],
    ] as const)
      void msix.table.write(16 * vector + 4 * word, 4, value);
  };
  return { msix, space, irqs, msis, control, arm };
}

test('the capability tells how many vectors there are and where they lie', () => {
  const { space } = create(3);
  space.write(0x40, 4, ALL);
  expect([space.read(0x40, 2), space.read(CONTROL, 2) & 0x3fff]).toEqual([0x0011, 2]);
  expect([space.read(0x44, 4), space.read(0x48, 4)]).toEqual([0x8000, 0x4_8000]);
});

test('an entry reads back as written, masked at first, and its reserved bits stay 0', () => {
  const { msix } = create();
  expect(msix.table.read(16 + 12, 4)).toBe(1);

  for (const word of [0, 1, 2, 3]) void msix.table.write(16 + 4 * word, 4, 0xffff_fff0 + word);

  const words = [0, 1, 2, 3].map((word) => msix.table.read(16 + 4 * word, 4));
  expect(words).toEqual([0xffff_fff0, 0xffff_fff1, 0xffff_fff2, 1]);
});

test('a vector is heard only if neither entry nor function masks it and MSI-X is enabled', () => {
  fc.assert(
    fc.property(fc.boolean(), fc.boolean(), fc.boolean(), (enable, functionMask, entryMask) => {
      const { msix, irqs, msis, control, arm } = create();
      arm(1, 0x41);
      if (entryMask) void msix.table.write(16 + 12, 4, 1);
      void control((enable ? ENABLE : 0) | (functionMask ? FUNCTION_MASK : 0));

      irqs[1]?.signal();

      const heard = enable && !functionMask && !entryMask;
      expect(msis[1]?.sent).toEqual(heard ? [0x41] : []);
      expect(msix.pending.read(0, 4)).toBe(heard ? 0 : 0b10);
    }),
  );
});

test('what waits while masked is sent once it is unmasked', () => {
  const { irqs, msis, control, arm, msix } = create();
  arm(0, 0x40);
  void control(ENABLE | FUNCTION_MASK);
  irqs[0]?.signal();
  irqs[0]?.signal();

  void control(ENABLE);

  expect(msis[0]?.sent).toEqual([0x40]);
  expect(msix.pending.read(0, 4)).toBe(0);
});

test('the kernel is asked only for what has changed', () => {
  const { msix, msis, control, arm } = create();
  arm(1, 0x41);
  void control(ENABLE);
  void control(ENABLE);
  expect(msis[1]?.calls).toEqual([{ low: 0xfee0_0000, high: 0, data: 0x41 }, 'unmask']);
  expect(msis[0]?.calls).toEqual([]);

  void msix.table.write(16 + 12, 4, 1);
  void msix.table.write(16 + 12, 4, 1);
  void msix.table.write(16 + 12, 4, 0);
  expect(msis[1]?.calls.slice(2)).toEqual(['mask', 'unmask']);

  arm(1, 0x51);
  const moved = { low: 0xfee0_0000, high: 0, data: 0x51 };
  expect(msis[1]?.calls.slice(4)).toEqual(['mask', moved, 'unmask']);

  void msix.table.write(16 + 8, 4, 0x61);
  expect(msis[1]?.calls.slice(7)).toEqual([{ ...moved, data: 0x61 }, 'unmask']);
});

test('the kernel learns of all messages before the first vector is unmasked', () => {
  const { msis, control, arm } = create();
  const asked: string[] = [];
  for (const msi of msis) {
    vi.spyOn(msi, 'route').mockImplementation(() => void asked.push('route'));
    vi.spyOn(msi, 'mask').mockImplementation(() => void asked.push('unmask'));
  }
  arm(0, 0x40);
  arm(2, 0x42);

  void control(ENABLE);

  expect(asked).toEqual(['route', 'route', 'unmask', 'unmask']);
});

test('a write is done when the kernel has answered, and the next waits for it', async () => {
  const { msix, msis, space, arm } = create();
  const asked: string[] = [];
  let answer = () => {};
  vi.spyOn(msis[0] as FakeMsi, 'mask').mockImplementation((masked) => {
    asked.push(masked ? 'mask' : 'unmask');
    return new Promise<void>((resolve) => {
      answer = resolve;
    });
  });
  arm(0, 0x40);

  const enabled = space.write(CONTROL, 2, ENABLE);
  const masked = msix.table.write(12, 4, 1);
  let isMasked = false;
  void Promise.resolve(masked).then(() => {
    isMasked = true;
  });
  expect([asked, enabled]).toEqual([['unmask'], expect.any(Promise)]);
  answer();
  await enabled;
  await new Promise(setImmediate);
  expect([asked, isMasked]).toEqual([['unmask', 'mask'], false]);
  answer();
  await masked;
  await new Promise(setImmediate);
  expect(msix.table.write(12, 4, 1)).toBeUndefined();
});

test('only whole words of entries that exist are accessed; all else reads all ones', () => {
  const { msix } = create(3);
  for (const [offset, sizeBytes] of [
    [0, 1],
    [0, 2],
    [2, 4],
    [48, 4],
    [-4, 4],
    [0x7ffc, 4],
  ] as const) {
    void msix.table.write(offset, sizeBytes, 0xf0);
    expect(msix.table.read(offset, sizeBytes)).toBe(2 ** (8 * sizeBytes) - 1);
  }
  const words = Array.from({ length: 12 }, (_, word) => msix.table.read(4 * word, 4));
  expect(words).toEqual([0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0, 1]);
});

test('pending bits fill whole quadwords, are read-only, and end there', () => {
  const { msix, irqs } = create(65);
  irqs[31]?.signal();
  irqs[64]?.signal();
  msix.pending.write(0, 4, ALL);
  expect([0, 4, 8, 12].map((at) => msix.pending.read(at, 4))).toEqual([0x8000_0000, 0, 1, 0]);
  expect([msix.pending.read(16, 4), msix.pending.read(0, 2), msix.pending.read(2, 4)]).toEqual([
    ...[ALL, 0xffff, ALL],
  ]);
});

test('a host that runs out of interrupts leaves nothing open', () => {
  const irqs: FakeEventFd[] = [];
  const msis: FakeMsi[] = [];
  const space = new ConfigSpace({ vendorId: 1, deviceId: 1, classCode: 0 });
  const options = {
    ...{ vectorCount: 3, bar: 0, tableOffset: 0, pendingOffset: 0x800 },
    openEventFd: () => {
      irqs.push(new FakeEventFd());
      return irqs.at(-1) as FakeEventFd;
    },
    openMsi: () => {
      if (msis.length === 2) throw new Error('ENOSPC');
      msis.push(new FakeMsi(irqs.at(-1) as FakeEventFd));
      return msis.at(-1) as FakeMsi;
    },
  };

  expect(() => new Msix(space, options)).toThrow('ENOSPC');

  expect(irqs.map(({ isClosed }) => isClosed)).toEqual([true, true, true]);
  expect(msis.map(({ calls }) => calls)).toEqual([['close'], ['close']]);
});
