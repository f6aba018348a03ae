/**
 * Memory that comes while the guest runs: eight modules in the guest's namespace, and a block of
 * registers that tells which are there, where, and which have come. ACPI 6.5 §9.11 (PNP0C80),
 * §5.6.6 (notifications). None ever goes: what a guest has taken for its kernel, it cannot give up.
 */
import type { Claim } from '../../native.ts';
import type { AmlSource, BusDevice } from '../device.ts';
import { RegisterFile } from '../registers.ts';
import * as aml from './aml.ts';

/** How many modules there can be: 8, as in the original. */
export const MEMORY_SLOTS = 8;

// Of the module that is selected: address, size, both of 64 bits, proximity domain, status.
const SELECT = 0x0; // written; the address is read there
const ADDRESS = 0x0;
const SIZE = 0x8;
const PROXIMITY = 0x10;
const STATUS = 0x14;
const BLOCK_BYTES = 0x18;

// Bits of the status.
const PRESENT = 1 << 0;
/** The guest clears it by writing it. */
const INSERTED = 1 << 1;

/** What a module is notified of, §5.6.6. */
const DEVICE_CHECK = 1;

const PRESENT_AND_WORKING = 0xf; // §6.3.7

// Of a QWORD address space descriptor, §6.4.3.5.1: lowest and highest address, and length.
const MINIMUM = 14;
const MAXIMUM = 22;
const LENGTH = 38;

/** The method that looks who has come. */
export const MEMORY_SCAN = '\\_SB.MHPC.MSCN';

interface Module {
  gpa: number;
  sizeBytes: number;
  status: number;
}

const low = (value: number): number => value % 2 ** 32;
const high = (value: number): number => Math.floor(value / 2 ** 32);

export class MemoryHotplug implements BusDevice, AmlSource {
  readonly claims: readonly Claim[];
  readonly #gpa: number;
  readonly #registers: RegisterFile;
  readonly #modules: Module[] = [];
  #selected = 0;

  /** @param gpa of its registers. */
  constructor({ gpa }: { gpa: number }) {
    this.claims = [{ space: 'mmio', base: gpa, sizeBytes: BLOCK_BYTES }];
    this.#gpa = gpa;
    const address = (): number => this.#module?.gpa ?? 0;
    const size = (): number => this.#module?.sizeBytes ?? 0;
    this.#registers = new RegisterFile([
      {
        ...{ name: 'address low, select', offset: SELECT, sizeBytes: 4 },
        read: () => low(address()),
        write: (value) => {
          this.#selected = value;
        },
      },
      { name: 'address high', offset: ADDRESS + 4, sizeBytes: 4, read: () => high(address()) },
      { name: 'size low', offset: SIZE, sizeBytes: 4, read: () => low(size()) },
      { name: 'size high', offset: SIZE + 4, sizeBytes: 4, read: () => high(size()) },
      { name: 'proximity domain', offset: PROXIMITY, sizeBytes: 4, read: () => 0 },
      {
        ...{ name: 'status', offset: STATUS, sizeBytes: 1 },
        read: () => this.#module?.status ?? 0,
        write: (value) => this.#acknowledge(value),
      },
    ]);
  }

  get hasRoom(): boolean {
    return this.#modules.length < MEMORY_SLOTS;
  }

  /** A module is in the next slot; for the guest to hear of when it next looks. */
  insert(gpa: number, sizeBytes: number): void {
    this.#modules.push({ gpa, sizeBytes, status: PRESENT | INSERTED });
  }

  read(offset: number, sizeBytes: number): number {
    return this.#registers.read(offset, sizeBytes);
  }

  write(offset: number, sizeBytes: number, value: number): void {
    this.#registers.write(offset, sizeBytes, value);
  }

  get #module(): Module | undefined {
    return this.#modules[this.#selected];
  }

  #acknowledge(value: number): void {
    const module = this.#module;
    if (module) module.status &= ~(value & INSERTED);
  }

  aml(): aml.Aml[] {
    return [
      aml.device(
        'MHPC',
        aml.name('_HID', aml.eisaId('PNP0A06')),
        aml.name('_UID', 'Memory Hotplug Controller'),
        aml.name('_CRS', aml.resources(aml.memory64Fixed(this.#gpa, BLOCK_BYTES))),
        aml.mutex('MLCK'),
        ...registerFields(this.#gpa),
        stateMethod(),
        resourceMethod(),
        scanMethod(),
        ...Array.from({ length: MEMORY_SLOTS }, (_, slot) => module(slot)),
      ),
    ];
  }
}

const moduleName = (slot: number): string => `M${String(slot).padStart(3, '0')}`;

const registerFields = (gpa: number): aml.Aml[] => [
  aml.opRegion('MHPR', 'memory', gpa, BLOCK_BYTES),
  aml.field('MHPR', 'dword', 'preserve', ['MHBA', 64], ['MHLN', 64], ['MHPX', 32]),
  aml.field('MHPR', 'dword', 'preserve', ['MSEL', 32]),
  // A bit that is written is written alone.
  aml.field('MHPR', 'byte', 'zeros', [null, 8 * STATUS], ['MEN', 1], ['MINS', 1]),
];

const module = (slot: number): aml.Aml =>
  aml.device(
    moduleName(slot),
    aml.name('_HID', aml.eisaId('PNP0C80')),
    aml.name('_UID', slot),
    aml.method('_STA', 0, aml.returnValue(aml.call('MSTA', slot))),
    aml.method('_CRS', 0, aml.returnValue(aml.call('MCRS', slot))),
  );

/** `body` with a module selected, and no other processor of the guest selecting another. */
const selected = (slot: aml.Term, ...body: aml.Aml[]): aml.Aml[] => [
  aml.acquire('MLCK'),
  aml.store(slot, aml.path('MSEL')),
  ...body,
  aml.release('MLCK'),
];

const stateMethod = (): aml.Aml =>
  aml.method(
    'MSTA',
    1,
    aml.store(0, aml.local(0)),
    ...selected(
      aml.arg(0),
      aml.when(aml.path('MEN'), aml.store(PRESENT_AND_WORKING, aml.local(0))),
    ),
    aml.returnValue(aml.local(0)),
  );

/** Where a module lies: a template whose fields are filled in. */
const resourceMethod = (): aml.Aml =>
  aml.method(
    'MCRS',
    1,
    aml.name('MR64', aml.resources(aml.memory64Cacheable(0, 1))),
    aml.createQwordField(aml.path('MR64'), MINIMUM, 'MINA'),
    aml.createQwordField(aml.path('MR64'), MAXIMUM, 'MAXA'),
    aml.createQwordField(aml.path('MR64'), LENGTH, 'LENA'),
    ...selected(
      aml.arg(0),
      aml.store(aml.path('MHBA'), aml.path('MINA')),
      aml.store(aml.path('MHLN'), aml.path('LENA')),
    ),
    aml.subtract(aml.add(aml.path('MINA'), aml.path('LENA')), 1, aml.path('MAXA')),
    aml.returnValue(aml.path('MR64')),
  );

const scanMethod = (): aml.Aml => {
  const slot = aml.local(0);
  const tell = Array.from({ length: MEMORY_SLOTS }, (_, index) =>
    aml.when(aml.equal(slot, index), aml.notify(moduleName(index), DEVICE_CHECK)),
  );
  return aml.method(
    'MSCN',
    0,
    aml.store(0, slot),
    aml.repeatWhile(
      aml.less(slot, MEMORY_SLOTS),
      ...selected(slot, aml.when(aml.path('MINS'), ...tell, aml.store(1, aml.path('MINS')))),
      aml.add(slot, 1, slot),
    ),
  );
};
