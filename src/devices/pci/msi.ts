/**
 * MSI: up to 32 interrupts of one address and neighbouring data, each an eventfd on its way to KVM.
 * PCI Local Bus 3.0 §6.8.1.
 */
import { Reader, Writer } from '../../bytes.ts';
import { allOf, InTurn } from '../../in-turn.ts';
import type { EventFd, Later, Msi as Message } from '../../native.ts';
import type { CapabilityList } from './config-space.ts';

const CAPABILITY_ID = 0x05;

// Message control, the first two bytes of the capability's body.
const ENABLE = 1 << 0;
const CAPABLE_SHIFT = 1;
const WANTED_SHIFT = 4;
const LOG_MASK = 0b111;
const IS_64 = 1 << 7;
const HAS_MASKS = 1 << 8;

export interface MsiOptions {
  /** A power of two up to 32. */
  vectorCount: number;
  is64: boolean;
  hasMasks: boolean;
  openEventFd(): EventFd;
  /** @throws SystemError if the host has no more. */
  openMsi(irq: EventFd): Message;
  /** The guest turns on so many of them, from the first; or none. Within its write. */
  onEnabled(irqs: readonly EventFd[]): void;
}

/** The length of a capability, with its id and next pointer. §6.8.1 */
const msiBytes = (is64: boolean, hasMasks: boolean): number =>
  (is64 ? 14 : 10) + (hasMasks ? 10 : 0);

/** What the message control of a device's own says. */
export const parseMsiControl = (control: number) => ({
  vectorCount: Math.min(1 << ((control >>> CAPABLE_SHIFT) & LOG_MASK), 32),
  is64: (control & IS_64) !== 0,
  hasMasks: (control & HAS_MASKS) !== 0,
});

export class Msi {
  readonly #options: MsiOptions;
  readonly #vectors: { irq: EventFd; message: Message }[] = [];
  readonly #body: Uint8Array;
  /** Of its fields in the body. */
  readonly #data: number;
  readonly #masks: number;
  readonly #updates = new InTurn();
  #isEnabled = false;

  /** The capability becomes the next one of `space`. */
  constructor(space: CapabilityList, options: MsiOptions) {
    const { vectorCount, is64, hasMasks } = options;
    this.#options = options;
    this.#data = is64 ? 10 : 6;
    this.#masks = this.#data + 4;
    const length = msiBytes(is64, hasMasks) - 2;
    const control =
      (Math.log2(vectorCount) << CAPABLE_SHIFT) | (is64 ? IS_64 : 0) | (hasMasks ? HAS_MASKS : 0);
    const writable = new Writer(length)
      .u16(0, ENABLE | (LOG_MASK << WANTED_SHIFT))
      .u32(2, 0xffff_fffc);
    if (is64) writable.u32(6, 0xffff_ffff);
    writable.u16(this.#data, 0xffff);
    if (hasMasks) writable.u32(this.#masks, 2 ** vectorCount - 1);
    this.#body = space.addCapability({
      id: CAPABILITY_ID,
      body: new Writer(length).u16(0, control).bytes,
      writable: writable.bytes,
      onRead: () => this.#showPending(),
      onWrite: () => this.#update(),
    });
    try {
      for (let i = 0; i < vectorCount; i++) this.#vectors.push(openVector(options));
    } catch (error) {
      void this.close();
      throw error;
    }
  }

  /** Resolves when nobody who signals reaches the guest any more. Idempotent. */
  async close(): Promise<void> {
    const vectors = this.#vectors.splice(0);
    for (const { irq } of vectors) irq.close();
    await this.#updates.run(() => allOf(vectors.map(({ message }) => message.close())));
  }

  #update(): Later<void> {
    const done = this.#updates.run(() => this.#tellHost());
    const { isEnabled, count } = this.#control;
    if (isEnabled === this.#isEnabled) return done;
    this.#isEnabled = isEnabled;
    this.#options.onEnabled(isEnabled ? this.#vectors.slice(0, count).map(({ irq }) => irq) : []);
    return done;
  }

  get #control() {
    const control = new Reader(this.#body).u16(0);
    const wanted = 1 << ((control >>> WANTED_SHIFT) & LOG_MASK);
    return { isEnabled: (control & ENABLE) !== 0, count: Math.min(wanted, this.#vectors.length) };
  }

  #tellHost(): Later<void> {
    const { isEnabled, count } = this.#control;
    const fields = new Reader(this.#body);
    const address = { low: fields.u32(2), high: this.#options.is64 ? fields.u32(6) : 0 };
    const data = fields.u16(this.#data);
    const masks = this.#options.hasMasks ? fields.u32(this.#masks) : 0;
    const isSent = (i: number) => isEnabled && i < count && ((masks >>> i) & 1) === 0;
    // All messages first: the host then learns of them together.
    // The lowest bits of the data tell the interrupts apart.
    for (const [i, { message }] of this.#vectors.entries())
      if (isSent(i)) message.route(address, (data & ~(count - 1)) | i);
    return allOf(this.#vectors.map(({ message }, i) => message.mask(!isSent(i))));
  }

  #showPending(): void {
    if (!this.#options.hasMasks) return;
    let bits = 0;
    for (const [i, { irq }] of this.#vectors.entries()) if (irq.pending()) bits |= 1 << i;
    const { buffer, byteOffset } = this.#body;
    new DataView(buffer, byteOffset).setUint32(this.#masks + 4, bits >>> 0, true);
  }
}

function openVector({ openEventFd, openMsi }: MsiOptions) {
  const irq = openEventFd();
  try {
    return { irq, message: openMsi(irq) };
  } catch (error) {
    irq.close();
    throw error;
  }
}
