/**
 * The generic event device: tells the guest what happened to the platform, by one interrupt and a
 * byte of event bits. ACPI 6.5 §5.6.9. The power button, its first source, is here with it.
 */
import { allOnes } from '../../bytes.ts';
import type { Claim, Irq } from '../../native.ts';
import type { AmlSource, BusDevice } from '../device.ts';
import * as aml from './aml.ts';

export const POWER_BUTTON = 1 << 3;

/** §4.8.3.2.1: the button was pressed while the system was up. */
const BUTTON_PRESSED = 0x80;

export interface GedOptions {
  /** Of the byte of event bits. */
  gpa: number;
  gsi: number;
  irq: Irq;
}

export class Ged implements BusDevice, AmlSource {
  readonly claims: readonly Claim[];
  readonly #options: GedOptions;
  #pending = 0;

  constructor(options: GedOptions) {
    this.claims = [{ space: 'mmio', base: options.gpa, sizeBytes: 1 }];
    this.#options = options;
  }

  /** `event` is one of the bits above; twice before the guest looks is once. */
  notify(event: number): void {
    this.#pending |= event;
    this.#options.irq.trigger();
  }

  /** Tells what happened since the last read. */
  read(offset: number, sizeBytes: number): number {
    if (offset !== 0 || sizeBytes !== 1) return allOnes(sizeBytes);
    const events = this.#pending;
    this.#pending = 0;
    return events;
  }

  write(): void {}

  aml(): aml.Aml[] {
    const { gpa, gsi } = this.#options;
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
          aml.when(
            aml.bitAnd(aml.local(0), POWER_BUTTON),
            aml.notify('\\_SB.PWRB', BUTTON_PRESSED),
          ),
        ),
      ),
      aml.device(
        'GED',
        aml.name('_HID', 'ACPI0013'),
        aml.name('_UID', 0),
        aml.name('_CRS', aml.resources(aml.irq(gsi))),
        aml.method('_EVT', 1, aml.call('\\_SB.GEC.ESCN')),
      ),
    ];
  }
}
