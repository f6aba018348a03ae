/**
 * Processors that come and go: the guest's namespace has all that there can be, and a block of
 * registers tells which are there, which have come, and which shall go. ACPI 6.5 §8.4 (processors),
 * §5.6.6 (notifications), §6.3.3 (_EJ0).
 *
 * The guest can give up what it was asked for, and nothing else.
 */
import type { Claim } from '../../native.ts';
import type { AmlSource, BusDevice } from '../device.ts';
import { RegisterFile } from '../registers.ts';
import * as aml from './aml.ts';

/** Which processor the status is of: 4 bytes. */
const SELECT = 0x0;
/** One byte. What is told of, the guest clears by writing its bit. */
const STATUS = 0x4;
const BLOCK_BYTES = 0xc;

// Bits of the status.
const PRESENT = 1 << 0;
const INSERTED = 1 << 1;
const TO_REMOVE = 1 << 2;
const EJECT = 1 << 3; // reads as 0
/** Not for the guest to see: asked for, and not given up yet. */
const LEAVING = 1 << 7;

// What a processor is notified of, §5.6.6.
const DEVICE_CHECK = 1;
const EJECT_REQUEST = 3;

const PRESENT_AND_WORKING = 0xf; // §6.3.7

/** The method that looks who has come and who shall go. */
export const CPU_SCAN = '\\_SB.CPUS.CSCN';

export interface CpuHotplugOptions {
  gpa: number;
  /** Of each processor that there can be, its entry in a MADT that has it; at most 1000. */
  madtEntries: readonly Uint8Array[];
  /** The NUMA node of each, where there are nodes. */
  nodes?: readonly (number | undefined)[];
  /** How many of them, from the first on, are there at boot. */
  presentCount: number;
  /** The guest has given up a processor. Called within its access: it must only start the work. */
  onEject: (processor: number) => void;
}

export class CpuHotplug implements BusDevice, AmlSource {
  readonly claims: readonly Claim[];
  readonly #options: CpuHotplugOptions;
  readonly #registers: RegisterFile;
  readonly #status: Uint8Array;
  #selected = 0;

  constructor(options: CpuHotplugOptions) {
    this.claims = [{ space: 'mmio', base: options.gpa, sizeBytes: BLOCK_BYTES }];
    this.#options = options;
    this.#status = new Uint8Array(options.madtEntries.length);
    this.#status.fill(PRESENT, 0, options.presentCount);
    this.#registers = new RegisterFile([
      {
        ...{ name: 'select', offset: SELECT, sizeBytes: 4 },
        read: () => this.#selected,
        write: (value) => {
          this.#selected = value;
        },
      },
      {
        ...{ name: 'status', offset: STATUS, sizeBytes: 1 },
        read: () => (this.#status[this.#selected] ?? 0) & (PRESENT | INSERTED | TO_REMOVE),
        write: (value) => this.#writeStatus(value),
      },
    ]);
  }

  /** How many are there and stay. */
  get presentCount(): number {
    return this.#count(PRESENT) - this.#count(LEAVING);
  }

  /** Whether the guest has yet to give up one. */
  get isRemoving(): boolean {
    return this.#count(LEAVING) > 0;
  }

  /** Has there be `count`, more than there are; for the guest to hear of when it next looks. */
  insertUpTo(count: number): void {
    for (let i = this.presentCount; i < count; i++) this.#status[i] = PRESENT | INSERTED;
  }

  /** Asks the guest for all but the first `count`. One that it has not seen come, it hears of both. */
  removeDownTo(count: number): void {
    for (let i = count, end = this.presentCount; i < end; i++)
      this.#status[i] = (this.#status[i] ?? 0) | TO_REMOVE | LEAVING;
  }

  read(offset: number, sizeBytes: number): number {
    return this.#registers.read(offset, sizeBytes);
  }

  write(offset: number, sizeBytes: number, value: number): void {
    this.#registers.write(offset, sizeBytes, value);
  }

  #count(bit: number): number {
    let count = 0;
    for (const status of this.#status) if ((status & bit) !== 0) count++;
    return count;
  }

  #writeStatus(value: number): void {
    const before = this.#status[this.#selected];
    if (before === undefined) return;
    if ((value & EJECT) !== 0 && (before & LEAVING) !== 0) {
      this.#status[this.#selected] = 0;
      this.#options.onEject(this.#selected);
    } else {
      this.#status[this.#selected] = before & ~(value & (INSERTED | TO_REMOVE));
    }
  }

  aml(): aml.Aml[] {
    return [this.#controller(), this.#container()];
  }

  #controller(): aml.Aml {
    const { gpa } = this.#options;
    return aml.device(
      'PRES',
      aml.name('_HID', aml.eisaId('PNP0A06')),
      aml.name('_UID', 'CPU Hotplug Controller'),
      aml.name('_CRS', aml.resources(aml.memory64Fixed(gpa, BLOCK_BYTES))),
      aml.mutex('CPLK'),
      aml.opRegion('PRST', 'memory', gpa, BLOCK_BYTES),
      aml.field('PRST', 'dword', 'preserve', ['CSEL', 32]),
      // A bit that is written is written alone.
      aml.field(
        'PRST',
        'byte',
        'zeros',
        [null, 8 * STATUS],
        ['CPEN', 1],
        ['CINS', 1],
        ['CRMV', 1],
        ['CEJ0', 1],
      ),
    );
  }

  #container(): aml.Aml {
    const { madtEntries, nodes } = this.#options;
    return aml.device(
      'CPUS',
      aml.name('_HID', 'ACPI0010'),
      aml.name('_CID', aml.eisaId('PNP0A05')),
      stateMethod(),
      notifyMethod(madtEntries.length),
      ejectMethod(),
      scanMethod(madtEntries.length),
      ...madtEntries.map((entry, index) => processor(entry, index, nodes?.[index])),
    );
  }
}

const processorName = (index: number): string => `C${String(index).padStart(3, '0')}`;

/** The first one is there for ever. */
const processor = (madtEntry: Uint8Array, index: number, node: number | undefined): aml.Aml =>
  aml.device(
    processorName(index),
    aml.name('_HID', 'ACPI0007'),
    aml.name('_UID', index),
    aml.name('_MAT', aml.buffer(madtEntry)),
    // A processor that has come again is in no node but by this.
    ...(node === undefined ? [] : [aml.name('_PXM', node)]),
    aml.method('_STA', 0, aml.returnValue(aml.call('CSTA', index))),
    ...(index === 0 ? [] : [aml.method('_EJ0', 1, aml.call('CEJ0', index))]),
  );

const register = (at: string): aml.Aml => aml.path(`\\_SB.PRES.${at}`);

/** `body` with a processor selected, and no other processor of the guest selecting another. */
const selected = (processorIndex: aml.Term, ...body: aml.Aml[]): aml.Aml[] => [
  aml.acquire('\\_SB.PRES.CPLK'),
  aml.store(processorIndex, register('CSEL')),
  ...body,
  aml.release('\\_SB.PRES.CPLK'),
];

const stateMethod = (): aml.Aml =>
  aml.method(
    'CSTA',
    1,
    aml.store(0, aml.local(0)),
    ...selected(
      aml.arg(0),
      aml.when(register('CPEN'), aml.store(PRESENT_AND_WORKING, aml.local(0))),
    ),
    aml.returnValue(aml.local(0)),
  );

const notifyMethod = (count: number): aml.Aml =>
  aml.method(
    'CTFY',
    2,
    ...Array.from({ length: count }, (_, index) =>
      aml.when(aml.equal(aml.arg(0), index), aml.notify(processorName(index), aml.arg(1))),
    ),
  );

const ejectMethod = (): aml.Aml =>
  aml.method('CEJ0', 1, ...selected(aml.arg(0), aml.store(1, register('CEJ0'))));

/** Who has come is told of before who shall go: one may be both. */
const scanMethod = (count: number): aml.Aml => {
  const index = aml.local(0);
  const tell = (bit: string, event: number): aml.Aml =>
    aml.when(register(bit), aml.call('CTFY', index, event), aml.store(1, register(bit)));
  return aml.method(
    'CSCN',
    0,
    aml.store(0, index),
    aml.repeatWhile(
      aml.less(index, count),
      ...selected(index, tell('CINS', DEVICE_CHECK), tell('CRMV', EJECT_REQUEST)),
      aml.add(index, 1, index),
    ),
  );
};
