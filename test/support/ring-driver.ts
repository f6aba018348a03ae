/**
 * The driver's side of a split virtqueue in guest RAM, VIRTIO 1.2 §2.7, for tests of the device's.
 */
import { type EventFd, type GuestMemory, native, type Virtqueue } from '../../src/native.ts';
import type { DmaSpace } from '../../src/native-iommu.ts';

const DESCRIPTOR_BYTES = 16;
export const F_NEXT = 1;
export const F_WRITE = 2;

export interface RingOptions {
  size?: number;
  eventIdx?: boolean;
  /** Where the three parts lie, a page each. */
  ringsGpa?: number;
  /** Of a device behind an IOMMU, which finds everything where it lies in RAM. */
  dma?: DmaSpace;
}

/** A buffer of a chain: what the device may read, or, with `write`, may fill. */
export interface Buffer {
  gpa: number;
  sizeBytes: number;
  write?: boolean;
}

export class RingDriver {
  readonly kick: EventFd = new native.EventFd();
  readonly irq: EventFd = new native.EventFd();
  readonly broken: string[] = [];
  readonly size: number;
  readonly #memory: GuestMemory;
  readonly #eventIdx: boolean;
  readonly #ringsGpa: number;
  readonly #dma: DmaSpace | undefined;
  #availIdx = 0;
  #usedIdx = 0;

  constructor(
    memory: GuestMemory,
    { size = 8, eventIdx = false, ringsGpa = 0x1_0000, dma }: RingOptions = {},
  ) {
    this.#memory = memory;
    this.size = size;
    this.#eventIdx = eventIdx;
    this.#ringsGpa = ringsGpa;
    this.#dma = dma;
  }

  /** The device's side, as new. */
  device(): Virtqueue {
    return new native.Virtqueue({
      memory: this.#memory,
      dma: this.#dma,
      size: this.size,
      descGpa: this.descGpa,
      availGpa: this.availGpa,
      usedGpa: this.#usedGpa,
      indirect: false,
      eventIdx: this.#eventIdx,
      kick: this.kick,
      irq: this.irq,
      onBroken: (reason) => void this.broken.push(reason),
    });
  }

  get descGpa(): number {
    return this.#ringsGpa;
  }

  get availGpa(): number {
    return this.#ringsGpa + 0x1000;
  }

  get #usedGpa(): number {
    return this.#ringsGpa + 0x2000;
  }

  /** Writes a chain of descriptors from `head` on. */
  describe(head: number, buffers: readonly Buffer[]): void {
    buffers.forEach(({ gpa, sizeBytes, write = false }, index) => {
      const bytes = new DataView(new ArrayBuffer(DESCRIPTOR_BYTES));
      const last = index === buffers.length - 1;
      bytes.setBigUint64(0, BigInt(gpa), true);
      bytes.setUint32(8, sizeBytes, true);
      bytes.setUint16(12, (last ? 0 : F_NEXT) | (write ? F_WRITE : 0), true);
      bytes.setUint16(14, head + index + 1, true);
      const at = this.descGpa + (head + index) * DESCRIPTOR_BYTES;
      this.#memory.write(at, new Uint8Array(bytes.buffer));
    });
  }

  /** Makes the chains at `heads` available, without a kick. */
  offer(...heads: number[]): void {
    for (const head of heads) {
      this.#write16(this.availGpa + 4 + 2 * (this.#availIdx++ % this.size), head);
    }
    this.#write16(this.availGpa + 2, this.#availIdx);
  }

  /** A chain from `head` on, offered and kicked for. */
  send(head: number, buffers: readonly Buffer[]): void {
    this.describe(head, buffers);
    this.offer(head);
    this.kick.signal();
  }

  /** What the device has given back since the last call. */
  used(): { head: number; writtenBytes: number }[] {
    const given = [];
    for (; this.#usedIdx !== this.#read16(this.#usedGpa + 2); this.#usedIdx++) {
      const entry = new Uint32Array(2);
      const at = this.#usedGpa + 4 + 8 * (this.#usedIdx % this.size);
      this.#memory.read(at, new Uint8Array(entry.buffer));
      given.push({ head: entry[0] ?? 0, writtenBytes: entry[1] ?? 0 });
    }
    return given;
  }

  close(): void {
    this.kick.close();
    this.irq.close();
  }

  #write16(gpa: number, value: number): void {
    this.#memory.write(gpa, Uint8Array.of(value & 0xff, (value >> 8) & 0xff));
  }

  #read16(gpa: number): number {
    const bytes = new Uint8Array(2);
    this.#memory.read(gpa, bytes);
    return (bytes[0] ?? 0) | ((bytes[1] ?? 0) << 8);
  }
}
