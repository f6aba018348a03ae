/**
 * pvpanic: a PCI function with one register, by which a guest's kernel says that it panicked. After
 * QEMU's docs/specs/pvpanic.
 */
import { allOnes } from '../bytes.ts';
import type { AccessHandler, Claim } from '../native.ts';
import { bool } from '../schema.ts';
import type { DeviceContext, FunctionBar, PanicEvent, PciFunction } from './device.ts';
import { ConfigSpace } from './pci/config-space.ts';

export const PvpanicConfig = bool(false);

const IDENTITY = { vendorId: 0x1b36, deviceId: 0x0011, classCode: 0x088000, revision: 1 };

/** What answers; the BAR around it is as large as the smallest. */
const REGISTER_BYTES = 2;
const BAR_BYTES = 16;

// Bits of the register, which reads as those that are understood.
const PANICKED = 1 << 0;
const CRASH_LOADED = 1 << 1;

/** A guest may write as often as it likes; each event is passed on once in so long. */
const SILENCE_MS = 1000;

type Context = Pick<DeviceContext, 'vm' | 'placeBar' | 'onPanic' | 'onWarning'>;

export class Pvpanic implements PciFunction, AccessHandler {
  readonly space = new ConfigSpace(IDENTITY);
  readonly #context: Context;
  #gpa: number;
  #claim: Claim | undefined;
  readonly #toldAtMs = new Map<PanicEvent, number>();

  /** @throws VmmError if there is no room for its BAR. */
  constructor(context: Context) {
    this.#context = context;
    this.#gpa = context.placeBar(32, BAR_BYTES);
    const onMove = (gpa: number | undefined) => this.#move(gpa);
    this.space.addBar({ index: 0, width: 32, sizeBytes: BAR_BYTES, gpa: this.#gpa, onMove });
  }

  get bars(): readonly FunctionBar[] {
    return [{ index: 0, width: 32, sizeBytes: REGISTER_BYTES, gpa: this.#gpa }];
  }

  read(offset: number, sizeBytes: number): number {
    return offset === 0 && sizeBytes === 1 ? PANICKED | CRASH_LOADED : allOnes(sizeBytes);
  }

  write(offset: number, sizeBytes: number, value: number): void {
    if (offset === 0 && sizeBytes === 1) this.#tell(eventOf(value));
  }

  #tell(event: PanicEvent): void {
    const nowMs = performance.now();
    if (nowMs - (this.#toldAtMs.get(event) ?? -SILENCE_MS) < SILENCE_MS) return;
    this.#toldAtMs.set(event, nowMs);
    this.#context.onPanic(event);
    this.#context.onWarning(`The guest's kernel tells of its end by pvpanic: ${event}`);
  }

  /** The guest chose the place: where somebody else answers, we don't. */
  #move(gpa: number | undefined): void {
    const { vm } = this.#context;
    if (this.#claim) vm.release(this.#claim);
    this.#claim = undefined;
    if (gpa === undefined) return;
    this.#gpa = gpa;
    const claim: Claim = { space: 'mmio', base: gpa, sizeBytes: REGISTER_BYTES };
    try {
      vm.claim(claim, this);
      this.#claim = claim;
    } catch {
      // As hardware in such a place: there is no right answer.
    }
  }

  async pause(): Promise<void> {}
  resume(): void {}

  unplug(): void {
    this.#move(undefined);
  }

  async [Symbol.asyncDispose](): Promise<void> {}
}

function eventOf(value: number): PanicEvent {
  if (value === PANICKED) return 'panic';
  return value === CRASH_LOADED ? 'crash_loaded' : 'unknown_event';
}
