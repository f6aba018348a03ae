/**
 * The generic event device: tells the guest what happened to the platform, by one interrupt and a
 * byte of event bits. ACPI 6.5 §5.6.9. The power button, its first source, is here with it.
 *
 * The interrupt is one of level, up until the guest has read the byte: an edge would be lost on one
 * that still boots and has it masked, and what had come would never be seen.
 */
import { allOnes } from '../../bytes.ts';
import type { Claim, IrqLine } from '../../native.ts';
import type { AmlSource, BusDevice } from '../device.ts';
import * as aml from './aml.ts';

/** Bits of the byte of events. */
export const GED_EVENT = {
  cpus: 1 << 0,
  memory: 1 << 1,
  pci: 1 << 2,
  powerButton: 1 << 3,
} as const;

const EVENTS = Object.keys(GED_EVENT) as (keyof typeof GED_EVENT)[];

/** §4.8.3.2.1: the button was pressed while the system was up. */
const BUTTON_PRESSED = 0x80;

export interface GedOptions {
  /** Of the byte of event bits. */
  gpa: number;
  gsi: number;
  irq: IrqLine;
  /** What the guest calls for an event besides the power button's: the path of a method. */
  scans: Readonly<Partial<Record<keyof typeof GED_EVENT, string>>>;
}

export class Ged implements BusDevice, AmlSource {
  readonly claims: readonly Claim[];
  readonly #options: GedOptions;
  #pending = 0;

  constructor(options: GedOptions) {
    this.claims = [{ space: 'mmio', base: options.gpa, sizeBytes: 1 }];
    this.#options = options;
  }

  /** Twice before the guest looks is once. */
  notify(event: keyof typeof GED_EVENT): void {
    this.#pending |= GED_EVENT[event];
    this.#options.irq.set(true);
  }

  /** Tells what happened since the last read. */
  read(offset: number, sizeBytes: number): number {
    if (offset !== 0 || sizeBytes !== 1) return allOnes(sizeBytes);
    const events = this.#pending;
    this.#pending = 0;
    this.#options.irq.set(false);
    return events;
  }

  write(): void {}

  aml(): aml.Aml[] {
    const { gpa, gsi, scans } = this.#options;
    const on = (event: keyof typeof GED_EVENT, ...terms: aml.Aml[]): aml.Aml =>
      aml.when(aml.bitAnd(aml.local(0), GED_EVENT[event]), ...terms);
    return [
      aml.device('PWRB', aml.name('_HID', aml.eisaId('PNP0C0C')), aml.name('_UID', 0)),
      aml.device(
        'GEC',
        aml.name('_HID', aml.eisaId('PNP0A06')),
        aml.name('_UID', 'Generic Event Controller'),
        aml.name('_CRS', aml.resources(aml.memory64Fixed(gpa, 1))),
        aml.opRegion('GDST', 'memory', gpa, 1),
        aml.field('GDST', 'byte', 'zeros', ['GDAT', 8]),
        aml.method(
          'ESCN',
          0,
          aml.store(aml.path('GDAT'), aml.local(0)),
          ...EVENTS.flatMap((event) => (scans[event] ? [on(event, aml.call(scans[event]))] : [])),
          on('powerButton', aml.notify('\\_SB.PWRB', BUTTON_PRESSED)),
        ),
      ),
      aml.device(
        'GED',
        aml.name('_HID', 'ACPI0013'),
        aml.name('_UID', 0),
        aml.name('_CRS', aml.resources(aml.irq(gsi, 'level'))),
        aml.method('_EVT', 1, aml.call('\\_SB.GEC.ESCN')),
      ),
    ];
  }
}
