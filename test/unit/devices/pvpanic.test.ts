import { afterEach, beforeEach, expect, test, vi } from 'vitest';
import { Pvpanic } from '../../../src/devices/pvpanic.ts';
import { FakeVm } from '../support/fake-host.ts';

const GPA = 0xe7ff_fff0;
const COMMAND = 0x04;
const BAR0 = 0x10;
const MEMORY = 2;

let vm: FakeVm;
let events: string[];
let pvpanic: Pvpanic;

beforeEach(() => {
  vm = new FakeVm();
  events = [];
  pvpanic = new Pvpanic({
    vm,
    placeBar: () => GPA,
    onPanic: (event) => void events.push(event),
    onWarning: () => {},
  });
  pvpanic.space.write(COMMAND, 2, MEMORY);
});

afterEach(() => {
  vi.useRealTimers();
});

test('a guest finds the function of QEMU, with a BAR that both events can be read from', () => {
  expect(pvpanic.space.read(0, 4)).toBe(0x0011_1b36);
  expect(pvpanic.space.read(8, 4)).toBe(0x0880_0001);
  expect(vm.read(GPA, 1)).toBe(3);
  expect(vm.read(GPA + 1, 1)).toBe(0xff);
  expect(pvpanic.bars).toEqual([{ index: 0, width: 32, sizeBytes: 2, gpa: GPA }]);
});

test('what the guest writes is told by the name of the event', () => {
  for (const value of [1, 2, 4]) vm.write(GPA, 1, value);
  vm.write(GPA + 1, 1, 1);
  vm.write(GPA, 2, 1);

  expect(events).toEqual(['panic', 'crash_loaded', 'unknown_event']);
});

test('a guest that writes without end is heard once a second', () => {
  vi.useFakeTimers({ toFake: ['performance'] });
  for (let ms = 0; ms < 2500; ms++) {
    vm.write(GPA, 1, 1);
    vi.advanceTimersByTime(1);
  }

  expect(events).toEqual(['panic', 'panic', 'panic']);
});

test('it answers where the guest puts it, nowhere while it is off, and not after it is unplugged', () => {
  pvpanic.space.write(BAR0, 4, 0xd000_0000);
  expect(vm.read(0xd000_0000, 1)).toBe(3);
  expect(vm.read(GPA, 1)).toBe(0xff);
  expect(pvpanic.bars[0]?.gpa).toBe(0xd000_0000);

  pvpanic.space.write(COMMAND, 2, 0);
  expect(vm.read(0xd000_0000, 1)).toBe(0xff);
  pvpanic.space.write(COMMAND, 2, MEMORY);
  pvpanic.unplug();
  expect(vm.read(0xd000_0000, 1)).toBe(0xff);
});

test('where somebody else answers it does not, and it can be moved away again', () => {
  vm.claim({ space: 'mmio', base: 0xd000_0000, sizeBytes: 4 }, { read: () => 7, write: () => {} });

  pvpanic.space.write(BAR0, 4, 0xd000_0000);
  expect(vm.read(0xd000_0000, 1)).toBe(7);
  pvpanic.space.write(BAR0, 4, GPA);

  expect(vm.read(GPA, 1)).toBe(3);
  expect(vm.read(0xd000_0000, 1)).toBe(7);
});
