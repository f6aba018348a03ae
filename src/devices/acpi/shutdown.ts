/**
 * The register by which a guest powers off or resets the machine: reset, sleep control and sleep
 * status in one, for hardware-reduced ACPI. ACPI 6.5 §4.8.3.6 (reset), §4.8.3.7 (sleep).
 */
import { allOnes } from '../../bytes.ts';
import type { Claim } from '../../native.ts';
import type { AmlSource, BusDevice } from '../device.ts';
import { type Aml, name, packageOf } from './aml.ts';

/** What the FADT gives as its reset value. */
const RESET_VALUE = 1;

const S5_TYPE = 5;
const SLEEP_ENABLE = 1 << 5;
const POWER_OFF = (S5_TYPE << 2) | SLEEP_ENABLE;

/** One byte; the platform reserves four ports. */
const PORT_COUNT = 4;

export interface ShutdownOptions {
  port: number;
  /** Both are called on the vCPU's way into the guest's write, and must only start the work. */
  onReset(): void;
  onPowerOff(): void;
}

export class Shutdown implements BusDevice, AmlSource {
  readonly claims: readonly Claim[];
  readonly #options: ShutdownOptions;

  constructor(options: ShutdownOptions) {
    this.claims = [{ space: 'port', base: options.port, sizeBytes: PORT_COUNT }];
    this.#options = options;
  }

  /** Wake status stays 0: a guest that waits for it after S5 waits until it is off. */
  read(offset: number, sizeBytes: number): number {
    return offset === 0 && sizeBytes === 1 ? 0 : allOnes(sizeBytes);
  }

  write(offset: number, sizeBytes: number, value: number): void {
    if (offset !== 0 || sizeBytes !== 1) return;
    if (value === RESET_VALUE) this.#options.onReset();
    else if (value === POWER_OFF) this.#options.onPowerOff();
  }

  aml(): Aml[] {
    return [name('\\_S5', packageOf(S5_TYPE, S5_TYPE, 0, 0))];
  }
}
