/**
 * MSI-X: a table of interrupts that the guest routes and masks, each an eventfd on its way to KVM.
 * PCI Local Bus 3.0 §6.8.2. KVM is told only what has changed, for that is a system call which may
 * take milliseconds: the guest's write is done when KVM has answered, and only its vCPU waits.
 */
import { allOnes, Writer } from '../../bytes.ts';
import { allOf, InTurn } from '../../in-turn.ts';
import type { AccessHandler, EventFd, Later, LateWriteHandler, Msi } from '../../native.ts';
import type { CapabilityList } from './config-space.ts';

const CAPABILITY_ID = 0x11;

// Message control, the first two bytes of the capability's body: bits of its upper byte.
const ENABLE = 1 << 7;
const FUNCTION_MASK = 1 << 6;

const ENTRY_BYTES = 16;
const ENTRY_WORDS = ENTRY_BYTES / 4;
const CONTROL = 3; // the word of an entry that holds its mask
const MASKED = 1;

export interface MsixOptions {
  /** 1 to 2048. */
  vectorCount: number;
  /** The BAR that the table is in, and where. */
  bar: number;
  tableOffset: number;
  /** The same one if absent. */
  pendingBar?: number;
  pendingOffset: number;
  openEventFd(): EventFd;
  /** @throws SystemError if the host has no more. */
  openMsi(irq: EventFd): Msi;
  /** The guest turns on all of them, or none. Within its write. */
  onEnabled?(irqs: readonly EventFd[]): void;
}

/** One entry of the table. */
class Vector {
  readonly irq: EventFd;
  readonly msi: Msi;
  /** As the guest wrote it: address low and high, data, control. */
  readonly words = Uint32Array.of(0, 0, 0, MASKED);
  readonly #address = { low: 0, high: 0 };
  #routed = false;
  /** KVM is to hear of the route. */
  #isNews = false;
  #masked = true;

  constructor(irq: EventFd, msi: Msi) {
    this.irq = irq;
    this.msi = msi;
  }

  write(word: number, value: number): void {
    if (word === CONTROL) this.words[word] = value & MASKED;
    else if (this.words[word] !== value) {
      this.words[word] = value;
      this.#routed = false;
    }
  }

  /** Passes on where it leads, if anything can take that way or is about to. */
  route(functionMasked: boolean): void {
    if (this.#routed || this.#isMasked(functionMasked)) return;
    const [low = 0, high = 0, data = 0] = this.words;
    this.#address.low = low;
    this.#address.high = high;
    this.msi.route(this.#address, data);
    this.#routed = true;
    this.#isNews = true;
  }

  /** After `route`, and one at a time. */
  mask(functionMasked: boolean): Later<void> {
    const masked = this.#isMasked(functionMasked);
    if (masked === this.#masked && !(this.#isNews && !masked)) return;
    this.#isNews = false;
    const done = this.msi.mask(masked);
    const settle = () => {
      this.#masked = masked;
    };
    if (done) return done.then(settle);
    settle();
  }

  #isMasked(functionMasked: boolean): boolean {
    return functionMasked || ((this.words[CONTROL] ?? 0) & MASKED) !== 0;
  }

  close(): Promise<void> {
    this.irq.close();
    return this.msi.close();
  }
}

export class Msix {
  readonly table: LateWriteHandler;
  /** Which interrupts wait for being unmasked: a bit each. */
  readonly pending: AccessHandler;
  readonly #vectors: Vector[] = [];
  /** Of the capability, as the guest sees it. */
  readonly #body: Uint8Array;
  readonly #updates = new InTurn();
  #isEnabled = false;

  /** The capability becomes the next one of `space`. */
  constructor(space: CapabilityList, options: MsixOptions) {
    const { vectorCount, bar, tableOffset, pendingBar = bar, pendingOffset } = options;
    this.#body = space.addCapability({
      id: CAPABILITY_ID,
      body: new Writer(10)
        .u16(0, vectorCount - 1)
        .u32(2, tableOffset | bar)
        .u32(6, pendingOffset | pendingBar).bytes,
      writable: new Writer(10).u8(1, ENABLE | FUNCTION_MASK).bytes,
      onWrite: () => {
        const done = this.#update(this.#vectors);
        this.#tellEnabled(options);
        return done;
      },
    });
    this.table = {
      read: (offset, sizeBytes) => this.#readTable(offset, sizeBytes),
      write: (offset, sizeBytes, value) => this.#writeTable(offset, sizeBytes, value),
    };
    this.pending = {
      read: (offset, sizeBytes) => this.#readPending(offset, sizeBytes),
      write: () => {},
    };
    try {
      for (let i = 0; i < vectorCount; i++) this.#vectors.push(openVector(options));
    } catch (error) {
      void this.close();
      throw error;
    }
  }

  /** What to signal for a vector; undefined if there is none. */
  irq(vector: number): EventFd | undefined {
    return this.#vectors[vector]?.irq;
  }

  /** Resolves when nobody who signals reaches the guest any more. Idempotent. */
  async close(): Promise<void> {
    const vectors = this.#vectors.splice(0);
    await this.#updates.run(() => allOf(vectors.map((vector) => vector.close())));
  }

  #tellEnabled({ onEnabled }: MsixOptions): void {
    const isEnabled = ((this.#body[1] ?? 0) & ENABLE) !== 0;
    if (isEnabled === this.#isEnabled) return;
    this.#isEnabled = isEnabled;
    onEnabled?.(isEnabled ? this.#vectors.map(({ irq }) => irq) : []);
  }

  /** All routes first: the host then learns of them together. */
  #update(vectors: readonly Vector[]): Later<void> {
    return this.#updates.run(() => {
      const functionMasked = this.#functionMasked;
      for (const vector of vectors) vector.route(functionMasked);
      return allOf(vectors.map((vector) => vector.mask(functionMasked)));
    });
  }

  get #functionMasked(): boolean {
    return ((this.#body[1] ?? 0) & (ENABLE | FUNCTION_MASK)) !== ENABLE;
  }

  /** Only whole aligned words are the guest's to access, §6.8.2. */
  #readTable(offset: number, sizeBytes: number): number {
    const word = this.#vectors[Math.floor(offset / ENTRY_BYTES)]?.words[wordOf(offset)];
    return sizeBytes === 4 && word !== undefined ? word : allOnes(sizeBytes);
  }

  #writeTable(offset: number, sizeBytes: number, value: number): Later<void> {
    const vector = this.#vectors[Math.floor(offset / ENTRY_BYTES)];
    const word = wordOf(offset);
    if (sizeBytes !== 4 || !vector || !Number.isInteger(word)) return;
    vector.write(word, value);
    return this.#update([vector]);
  }

  #readPending(offset: number, sizeBytes: number): number {
    const first = 8 * offset;
    if (sizeBytes !== 4 || offset % 4 !== 0 || first >= alignedCount(this.#vectors.length))
      return allOnes(sizeBytes);
    let bits = 0;
    for (let i = 0; i < 32; i++) if (this.#vectors[first + i]?.irq.pending()) bits |= 1 << i;
    return bits >>> 0;
  }
}

function openVector({ openEventFd, openMsi }: MsixOptions): Vector {
  const irq = openEventFd();
  try {
    return new Vector(irq, openMsi(irq));
  } catch (error) {
    irq.close();
    throw error;
  }
}

/** Which word of its entry; no integer if the access is not aligned. */
const wordOf = (offset: number): number => (offset / 4) % ENTRY_WORDS;

/** The pending bits fill whole quadwords. */
const alignedCount = (vectors: number): number => 64 * Math.ceil(vectors / 64);
