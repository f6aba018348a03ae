/**
 * The configuration space of a PCI function: a type-0 header, BARs and capabilities. PCI Local Bus
 * 3.0 §6.1, §6.2, §6.7. Which bits a guest may write is data: a mask beside each byte.
 */
import { strict as assert } from 'node:assert';
import { alignUp, allOnes, Reader, Writer } from '../../bytes.ts';
import type { Later, LateWriteHandler } from '../../native.ts';

/** The registers of a function reach this far; those from 256 up are reserved, and read 0. */
export const FUNCTION_BYTES = 4096;

export const COMMAND = 0x04;
export const COMMAND_MEMORY = 1 << 1;
export const COMMAND_BUS_MASTER = 1 << 2;
export const COMMAND_NO_INTX = 1 << 10;
export const STATUS = 0x06;
export const STATUS_CAPABILITIES = 1 << 4;
export const CAPABILITIES_POINTER = 0x34;
export const HEADER_BYTES = 0x40;
/** All but what PCI Express has added. */
export const SPACE_BYTES = 0x100;

export const BARS = 0x10;
export const BAR_COUNT = 6;
const BAR_BYTES_MIN = 16;
export const BAR_64 = 0b100;
export const BAR_PREFETCHABLE = 0b1000;

/** A physical address has at most 52 bits: a BAR that reaches further decodes nowhere. */
const GPA_END = 2 ** 52;

export interface Identity {
  vendorId: number;
  deviceId: number;
  /** Class, subclass and programming interface: 0x060000 is a host bridge. */
  classCode: number;
  revision?: number;
  subsystemVendorId?: number;
  subsystemId?: number;
}

/** A memory BAR. */
export interface Bar {
  /** 0 to 5; one of 64 bits takes the next too. */
  index: number;
  width: 32 | 64;
  /** A power of two from 16. */
  sizeBytes: number;
  /** Where it is at first, a multiple of its size. Nothing decodes until the guest enables it. */
  gpa: number;
  /** Reads have no side effects, so that it may be cached: it is memory. Of 64 bits. */
  prefetchable?: true;
  /**
   * The BAR now decodes at `gpa`, or nowhere. The guest chose the place: it may be RAM, or another
   * device's. Called within the guest's write, and must not throw.
   */
  onMove(gpa: number | undefined): void;
}

export interface Capability {
  id: number;
  /** What follows the id and the next pointer. */
  body: Uint8Array;
  /** The bits of `body` that the guest may write; none if absent. */
  writable?: Uint8Array;
  /**
   * Before a read that touches the body, which may be brought up to date. `offset` is in the body,
   * or negative if the access begins before it.
   */
  onRead?(offset: number, sizeBytes: number): void;
  /** After a write that touched the body, which is done when this is. */
  onWrite?(offset: number, sizeBytes: number): Later<void>;
}

/** What has a chain of capabilities. */
export interface CapabilityList {
  /** Returns the body as the guest sees it, for the device to read and change. */
  addCapability(capability: Capability): Uint8Array;
}

interface PlacedBar {
  bar: Bar;
  decoded: number | undefined;
}

interface PlacedCapability {
  capability: Capability;
  start: number;
  end: number;
}

export class ConfigSpace implements CapabilityList, LateWriteHandler {
  readonly #bytes: Uint8Array;
  readonly #reader: Reader;
  readonly #writable = new Writer(SPACE_BYTES);
  readonly #bars: PlacedBar[] = [];
  readonly #capabilities: PlacedCapability[] = [];
  #nextCapability = HEADER_BYTES;
  /** The byte that will point to the next capability. */
  #lastPointer = CAPABILITIES_POINTER;

  constructor(identity: Identity) {
    this.#bytes = new Writer(SPACE_BYTES)
      .u16(0x00, identity.vendorId)
      .u16(0x02, identity.deviceId)
      .u32(0x08, identity.classCode * 0x100 + (identity.revision ?? 0))
      .u16(0x2c, identity.subsystemVendorId ?? 0)
      .u16(0x2e, identity.subsystemId ?? 0).bytes;
    this.#reader = new Reader(this.#bytes);
    this.#writable.u16(COMMAND, COMMAND_MEMORY | COMMAND_BUS_MASTER | COMMAND_NO_INTX);
  }

  /** Address bits below the size stay 0, so that all ones written read back as the size's mask. */
  addBar(bar: Bar): void {
    const { index, width, sizeBytes, gpa, prefetchable } = bar;
    const last = width === 64 ? index + 1 : index;
    assert(index >= 0 && last < BAR_COUNT, `BAR ${index} of ${width} bits`);
    assert(Number.isInteger(Math.log2(sizeBytes)) && sizeBytes >= BAR_BYTES_MIN, 'BAR size');
    assert(gpa % sizeBytes === 0 && gpa + sizeBytes <= (width === 64 ? GPA_END : 2 ** 32), 'BAR');
    const at = BARS + 4 * index;
    const addresses = (1n << BigInt(width)) - BigInt(sizeBytes);
    const flags = (width === 64 ? BAR_64 : 0) + (prefetchable ? BAR_PREFETCHABLE : 0);
    const header = new Writer(8).u64(0, gpa + flags).bytes;
    const mask = new Writer(8).u64(0, addresses).bytes;
    this.#bytes.set(header.subarray(0, width / 8), at);
    this.#writable.put(at, mask.subarray(0, width / 8));
    this.#bars.push({ bar, decoded: undefined });
  }

  addCapability(capability: Capability): Uint8Array {
    const { id, body, writable } = capability;
    const at = this.#nextCapability;
    const start = at + 2;
    const end = start + body.length;
    assert(end <= SPACE_BYTES, `No room for capability ${id} of ${body.length} bytes`);
    assert(writable === undefined || writable.length === body.length, 'Mask of another length');
    this.#bytes[this.#lastPointer] = at;
    this.#bytes[STATUS] = STATUS_CAPABILITIES;
    this.#bytes[at] = id;
    this.#bytes.set(body, start);
    if (writable) this.#writable.put(start, writable);
    this.#lastPointer = at + 1;
    this.#nextCapability = alignUp(end, 4);
    this.#capabilities.push({ capability, start, end });
    return this.#bytes.subarray(start, end);
  }

  read(offset: number, sizeBytes: number): number {
    if (!withinDword(offset, sizeBytes)) return allOnes(sizeBytes);
    if (offset >= SPACE_BYTES) return 0;
    for (const { capability, start, end } of this.#capabilities)
      if (offset < end && offset + sizeBytes > start)
        capability.onRead?.(offset - start, sizeBytes);
    const dword = this.#reader.u32(offset & ~3);
    return ((dword >>> (8 * (offset & 3))) & allOnes(sizeBytes)) >>> 0;
  }

  write(offset: number, sizeBytes: number, value: number): Later<void> {
    if (!withinDword(offset, sizeBytes) || offset >= SPACE_BYTES) return;
    for (let i = 0; i < sizeBytes; i++) {
      const mask = this.#writable.bytes[offset + i] ?? 0;
      const old = this.#bytes[offset + i] ?? 0;
      this.#bytes[offset + i] = (old & ~mask) | ((value >>> (8 * i)) & mask);
    }
    if (offset < BARS + 4 * BAR_COUNT) this.#moveBars();
    // Bodies begin and end at groups of four bytes, or two: an access is of one of them.
    const at = this.#capabilities.find(
      ({ start, end }) => offset < end && offset + sizeBytes > start,
    );
    return at?.capability.onWrite?.(offset - at.start, sizeBytes);
  }

  #moveBars(): void {
    for (const placed of this.#bars) {
      const gpa = this.#decodedAt(placed.bar);
      if (gpa === placed.decoded) continue;
      placed.decoded = gpa;
      placed.bar.onMove(gpa);
    }
  }

  #decodedAt({ index, width, sizeBytes }: Bar): number | undefined {
    if ((this.#reader.u16(COMMAND) & COMMAND_MEMORY) === 0) return undefined;
    const at = BARS + 4 * index;
    const low = this.#reader.u32(at);
    const high = width === 64 ? this.#reader.u32(at + 4) : 0;
    const gpa = high * 2 ** 32 + low - (low % BAR_BYTES_MIN);
    return gpa + sizeBytes <= GPA_END ? gpa : undefined;
  }
}

/** Accesses lie within one aligned group of four bytes; others are none of PCI's. */
export const withinDword = (offset: number, sizeBytes: number): boolean =>
  sizeBytes >= 1 && (offset & 3) + sizeBytes <= 4 && offset >= 0 && offset < FUNCTION_BYTES;
