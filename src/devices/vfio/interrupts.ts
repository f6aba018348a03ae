/**
 * The interrupts of a function that is handed to the guest: of its line, or MSI, or MSI-X,
 * whichever it has turned on. From the device to KVM they go by eventfds, and never through here.
 */
import type { EventFd } from '../../native.ts';
import { type Passthrough, VFIO } from '../../native-vfio.ts';
import type { VfioBackend } from './device.ts';

export interface InterruptsOptions {
  device: Pick<VfioBackend, 'setIrqs' | 'setUnmask'>;
  guest: Pick<Passthrough, 'connect' | 'disconnect'>;
  /** Undefined if the device has no line. */
  lineGsi: number | undefined;
  openEventFd(): EventFd;
  onWarning(message: string): void;
}

type Mode = 'line' | 'msi' | 'msix';
const INDEX: Record<Mode, number> = { line: VFIO.intx, msi: VFIO.msi, msix: VFIO.msix };

export class Interrupts {
  readonly #options: InterruptsOptions;
  /** Raises the line; says that it may be raised again. */
  readonly #line: { irq: EventFd; resample: EventFd } | undefined;
  /** What signals are sent to, of those that the guest has turned on. */
  readonly #on = new Map<Mode, readonly EventFd[]>();
  #current: Mode | undefined;

  constructor(options: InterruptsOptions) {
    this.#options = options;
    if (options.lineGsi === undefined) return;
    const irq = options.openEventFd();
    try {
      this.#line = { irq, resample: options.openEventFd() };
    } catch (error) {
      irq.close();
      throw error;
    }
  }

  /** Within the guest's write: what goes wrong is told to the log alone. */
  turnLine(isOn: boolean): void {
    this.turn('line', isOn && this.#line ? [this.#line.irq] : []);
  }

  /** The guest has turned these on, or none. */
  turn(mode: Mode, irqs: readonly EventFd[]): void {
    if (irqs.length > 0) this.#on.set(mode, irqs);
    else this.#on.delete(mode);
    this.#update();
  }

  /** The device signals nothing any more. */
  stop(): void {
    this.#on.clear();
    this.#update();
  }

  /** Idempotent. */
  close(): void {
    this.stop();
    this.#line?.irq.close();
    this.#line?.resample.close();
  }

  #update(): void {
    const wanted = (['msix', 'msi', 'line'] as const).find((mode) => this.#on.has(mode));
    if (wanted === this.#current) return;
    try {
      const left = this.#current;
      this.#current = undefined;
      if (left) this.#leave(left);
      if (wanted) this.#enter(wanted);
      this.#current = wanted;
    } catch (error) {
      this.#options.onWarning(`Its interrupts cannot be turned on: ${(error as Error).message}`);
    }
  }

  #enter(mode: Mode): void {
    const { device, guest, lineGsi } = this.#options;
    const irqs = this.#on.get(mode) ?? [];
    if (mode !== 'line' || !this.#line || lineGsi === undefined) {
      device.setIrqs(INDEX[mode], irqs);
      return;
    }
    const { irq, resample } = this.#line;
    guest.connect(lineGsi, irq, resample);
    try {
      device.setIrqs(INDEX.line, irqs);
      device.setUnmask(resample);
    } catch (error) {
      guest.disconnect(lineGsi, irq);
      throw error;
    }
  }

  #leave(mode: Mode): void {
    const { device, guest, lineGsi } = this.#options;
    if (mode === 'line' && this.#line && lineGsi !== undefined)
      guest.disconnect(lineGsi, this.#line.irq);
    device.setIrqs(INDEX[mode], []);
  }
}
