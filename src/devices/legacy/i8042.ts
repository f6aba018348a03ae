/**
 * What is left of the keyboard controller: the reset line, and port 0x61, whose timer-2 output bit
 * old calibration loops wait for. There is no keyboard: the FADT says so, and port 0x60 is
 * nobody's.
 */
import { allOnes } from '../../bytes.ts';
import type { Claim } from '../../native.ts';
import type { BusDevice } from '../device.ts';

// Offsets from port 0x61.
const SYSTEM_CONTROL = 0;
const COMMAND_STATUS = 3;
const PORT_COUNT = 4;

const TIMER2_OUTPUT = 1 << 5;
const PULSE_RESET_LINE = 0xfe;

export interface I8042Options {
  /** Of system control port B; the controller's own command port is three above. */
  port: number;
  onReset(): void;
}

export class I8042 implements BusDevice {
  readonly claims: readonly Claim[];
  readonly #onReset: () => void;

  constructor({ port, onReset }: I8042Options) {
    this.claims = [{ space: 'port', base: port, sizeBytes: PORT_COUNT }];
    this.#onReset = onReset;
  }

  read(offset: number, sizeBytes: number): number {
    if (sizeBytes === 1 && offset === SYSTEM_CONTROL) return TIMER2_OUTPUT;
    if (sizeBytes === 1 && offset === COMMAND_STATUS) return 0; // both buffers empty: ready
    return allOnes(sizeBytes);
  }

  write(offset: number, sizeBytes: number, value: number): void {
    if (sizeBytes === 1 && offset === COMMAND_STATUS && value === PULSE_RESET_LINE) this.#onReset();
  }
}
