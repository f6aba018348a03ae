/**
 * CMOS: the host's time in UTC, how much RAM there is for firmware that asks, and a few bytes to
 * keep. After the MC146818 data sheet; no alarm and no interrupt.
 */
import { allOnes, KIB, MIB } from '../../bytes.ts';
import type { Claim } from '../../native.ts';
import { type Aml, device, eisaId, ioPorts, name, resources } from '../acpi/aml.ts';
import type { AmlSource, BusDevice } from '../device.ts';

const PORT_COUNT = 2;
const INDEX = 0;
const DATA = 1;

const INDEX_MASK = 0x7f; // bit 7 of the index masks NMI on a PC
const REGISTER_COUNT = 128;

/** Reset by way of the shutdown status, register 0x0f, chosen with NMI masked. */
const SHUTDOWN_STATUS_NO_NMI = 0x8f;

const BASE_1024_HZ = 0x26; // register A: divider of a 32 kHz crystal, no update in progress
const HOURS_24 = 0x02; // register B: 24 hours, BCD
const RAM_AND_TIME_VALID = 0x80; // register D

const RAM_UNIT = 64 * KIB;

export interface CmosOptions {
  port: number;
  ramBelow4GibBytes: number;
  ramAbove4GibBytes: number;
  /** Milliseconds since 1970, UTC. */
  nowMs(): number;
  onReset(): void;
}

export class Cmos implements BusDevice, AmlSource {
  readonly claims: readonly Claim[];
  readonly #options: CmosOptions;
  readonly #kept = new Uint8Array(REGISTER_COUNT);
  readonly #time = new Date(0); // one for all reads: an exit allocates nothing
  #index = 0;

  constructor(options: CmosOptions) {
    this.claims = [{ space: 'port', base: options.port, sizeBytes: PORT_COUNT }];
    this.#options = options;
  }

  read(offset: number, sizeBytes: number): number {
    if (sizeBytes !== 1 || offset !== DATA) return allOnes(sizeBytes);
    const index = this.#index & INDEX_MASK;
    return this.#computed(index) ?? this.#kept[index] ?? 0;
  }

  write(offset: number, sizeBytes: number, value: number): void {
    if (sizeBytes !== 1) return;
    if (offset === INDEX) this.#index = value;
    if (offset !== DATA) return;
    if (this.#index === SHUTDOWN_STATUS_NO_NMI && value === 0) this.#options.onReset();
    else this.#kept[this.#index & INDEX_MASK] = value;
  }

  /** Registers whose value no write changes. */
  #computed(index: number): number | undefined {
    const { ramBelow4GibBytes, ramAbove4GibBytes } = this.#options;
    switch (index) {
      case 0x0a:
        return BASE_1024_HZ;
      case 0x0b:
        return HOURS_24;
      case 0x0c:
        return 0; // no interrupt is ever pending
      case 0x0d:
        return RAM_AND_TIME_VALID;
      case 0x34:
      case 0x35:
        return ramByte(ramBelow4GibBytes - 16 * MIB, index - 0x34, 2);
      case 0x5b:
      case 0x5c:
      case 0x5d:
        return ramByte(ramAbove4GibBytes, index - 0x5b, 3);
      default:
        return this.#clock(index);
    }
  }

  #clock(index: number): number | undefined {
    const time = this.#time;
    time.setTime(this.#options.nowMs());
    switch (index) {
      case 0x00:
        return bcd(time.getUTCSeconds());
      case 0x02:
        return bcd(time.getUTCMinutes());
      case 0x04:
        return bcd(time.getUTCHours());
      case 0x06:
        return time.getUTCDay() + 1; // Sunday is 1
      case 0x07:
        return bcd(time.getUTCDate());
      case 0x08:
        return bcd(time.getUTCMonth() + 1);
      case 0x09:
        return bcd(time.getUTCFullYear() % 100);
      case 0x32:
        return bcd(Math.floor(time.getUTCFullYear() / 100));
      default:
        return undefined;
    }
  }

  /** Without an interrupt: there is none, and Linux would complain of one that it cannot have. */
  aml(): Aml[] {
    return [
      device(
        'RTC',
        name('_HID', eisaId('PNP0B00')),
        name('_CRS', resources(ioPorts(this.#options.port, PORT_COUNT))),
      ),
    ];
  }
}

/** Two decimal digits, a nibble each. */
const bcd = (value: number): number => Math.floor(value / 10) * 16 + (value % 10);

/** One byte of a count of 64 KiB units, which stops at the most that its bytes can say. */
function ramByte(ramBytes: number, byte: number, byteCount: number): number {
  const units = Math.floor(Math.max(ramBytes, 0) / RAM_UNIT);
  return (Math.min(units, 2 ** (8 * byteCount) - 1) >> (8 * byte)) & 0xff;
}
