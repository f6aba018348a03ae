/**
 * Plugging and unplugging at the PCI buses while the guest runs, by ACPI 6.5 §6.3: registers that
 * say which slots of a segment have changed, and methods that have the guest look there. As the
 * original has them.
 */
import { strict as assert } from 'node:assert';
import type { Claim } from '../../native.ts';
import * as aml from '../acpi/aml.ts';
import type { AmlSource, BusDevice, PciPlace } from '../device.ts';
import { RegisterFile } from '../registers.ts';

const REGISTERS_BYTES = 0x10;

/** What the guest calls when slots have changed. */
export const PCI_SCAN = '\\_SB.PHPR.PSCN';

// Values of a notification, §5.6.6.
const DEVICE_CHECK = 1;
const EJECT_REQUEST = 3;

export interface PciHotplugOptions {
  /** Of the registers, 16 bytes. */
  gpa: number;
  /** Those that may change, of each segment. */
  slots: readonly number[];
  /** Of each segment, its host bridge in the guest's namespace. */
  bridges: readonly string[];
  /** Has the guest call `PCI_SCAN`. */
  notify(): void;
  /** The guest has let go of a slot, or says so. Within its write: it only starts the work. */
  onEject(place: PciPlace): void;
}

/** Slots of a segment, as bits. */
interface Changes {
  /** Those that the guest has yet to look at. */
  plugged: number;
  /** Those that it is yet to be asked for. */
  wanted: number;
}

export class PciHotplug implements BusDevice, AmlSource {
  readonly claims: readonly Claim[];
  readonly read: (offset: number, sizeBytes: number) => number;
  readonly write: (offset: number, sizeBytes: number, value: number) => void;
  readonly #options: PciHotplugOptions;
  readonly #segments: readonly Changes[];
  /** The segment that the other registers are about. */
  #selected = 0;

  constructor(options: PciHotplugOptions) {
    this.#options = options;
    this.#segments = options.bridges.map(() => ({ plugged: 0, wanted: 0 }));
    this.claims = [{ space: 'mmio', base: options.gpa, sizeBytes: REGISTERS_BYTES }];
    const registers = this.#registers();
    this.read = (offset, sizeBytes) => registers.read(offset, sizeBytes);
    this.write = (offset, sizeBytes, value) => registers.write(offset, sizeBytes, value);
  }

  /** A device is there now. */
  plug(place: PciPlace): void {
    this.#of(place).plugged |= 1 << place.slot;
    this.#options.notify();
  }

  /** Asks for a slot; a guest that did not hear of it is asked again by a second call. */
  unplug(place: PciPlace): void {
    this.#of(place).wanted |= 1 << place.slot;
    this.#options.notify();
  }

  /** The slot is empty. */
  forget(place: PciPlace): void {
    const changes = this.#of(place);
    changes.plugged &= ~(1 << place.slot);
    changes.wanted &= ~(1 << place.slot);
  }

  #of({ segment }: PciPlace): Changes {
    const changes = this.#segments[segment];
    assert(changes, `there is no PCI segment ${segment}`);
    return changes;
  }

  #registers(): RegisterFile {
    return new RegisterFile([
      { name: 'PCIU', offset: 0x0, sizeBytes: 4, read: () => this.#take('plugged') },
      { name: 'PCID', offset: 0x4, sizeBytes: 4, read: () => this.#take('wanted') },
      {
        ...{ name: 'B0EJ', offset: 0x8, sizeBytes: 4 },
        read: () => 0,
        write: (mask) => this.#eject(mask),
      },
      {
        ...{ name: 'PSEG', offset: 0xc, sizeBytes: 4 },
        read: () => this.#selected,
        write: (segment) => {
          this.#selected = segment;
        },
      },
    ]);
  }

  /** Reading clears, as the guest then looks there. A segment that isn't there has no slots. */
  #take(which: keyof Changes): number {
    const changes = this.#segments[this.#selected];
    if (!changes) return 0;
    const slots = changes[which];
    changes[which] = 0;
    return slots >>> 0;
  }

  #eject(mask: number): void {
    const { slots, onEject } = this.#options;
    const segment = this.#selected;
    if (!this.#segments[segment]) return;
    for (const slot of slots) if (((mask >>> slot) & 1) === 1) onEject({ segment, slot });
  }

  aml(): aml.Aml[] {
    const { gpa, slots, bridges } = this.#options;
    return [
      controller(gpa, bridges),
      ...bridges.map((bridge) =>
        aml.scope(bridge, ...slots.map(slotDevice), letGo(), tellSlots(slots), checkAll()),
      ),
    ];
  }
}

const nameOf = (slot: number): string => `S${String(slot).padStart(3, '0')}`;

/** Present and working, and not shown. */
const STATUS = 0xb;

function controller(gpa: number, bridges: readonly string[]): aml.Aml {
  return aml.device(
    'PHPR',
    aml.name('_HID', aml.eisaId('PNP0A06')),
    aml.name('_STA', STATUS),
    aml.name('_UID', 'PCI Hotplug Controller'),
    aml.mutex('BLCK'),
    aml.name('_CRS', aml.resources(aml.memory64Fixed(gpa, REGISTERS_BYTES))),
    aml.opRegion('PCST', 'memory', gpa, REGISTERS_BYTES),
    aml.field(
      ...(['PCST', 'dword', 'zeros'] as const),
      ...(['PCIU', 'PCID', 'B0EJ', 'PSEG'] as const).map((name): [string, number] => [name, 32]),
    ),
    // Lets go of a slot, by its number and segment.
    aml.method(
      ...(['PCEJ', 2] as const),
      aml.acquire('BLCK'),
      aml.store(aml.arg(1), aml.path('PSEG')),
      aml.shiftLeft(1, aml.arg(0), aml.path('B0EJ')),
      aml.release('BLCK'),
      aml.returnValue(0),
    ),
    aml.method('PSCN', 0, ...bridges.map((bridge) => aml.call(`${bridge}.PCNT`))),
  );
}

/** §6.1.1: the device in the upper half of its address, the function in the lower. */
const slotDevice = (slot: number): aml.Aml =>
  aml.device(
    nameOf(slot),
    aml.name('_SUN', slot),
    aml.name('_ADR', slot * 0x1_0000),
    aml.method('_EJ0', 1, aml.call('PEJ0', aml.path('_SUN'))),
  );

/** Of a slot of this segment: one for all, for there may be thousands of slots. */
const letGo = (): aml.Aml =>
  aml.method('PEJ0', 1, aml.call('\\_SB.PHPR.PCEJ', aml.arg(0), aml.path('_SEG')));

/** Notifies each slot of a bit mask of a value. */
const tellSlots = (slots: readonly number[]): aml.Aml =>
  aml.method(
    'DVNT',
    2,
    ...slots.map((slot) =>
      aml.when(aml.bitAnd(aml.arg(0), 2 ** slot), aml.notify(nameOf(slot), aml.arg(1))),
    ),
  );

const checkAll = (): aml.Aml =>
  aml.method(
    ...(['PCNT', 0] as const),
    aml.acquire('\\_SB.PHPR.BLCK'),
    aml.store(aml.path('_SEG'), aml.path('\\_SB.PHPR.PSEG')),
    aml.call('DVNT', aml.path('\\_SB.PHPR.PCIU'), DEVICE_CHECK),
    aml.call('DVNT', aml.path('\\_SB.PHPR.PCID'), EJECT_REQUEST),
    aml.release('\\_SB.PHPR.BLCK'),
  );
