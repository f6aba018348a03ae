/**
 * A memory BAR of a function that is handed to the guest: pages that it reaches without an exit,
 * and the rest, such as the pages of the MSI-X table, by way of here.
 */
import { alignDown, alignUp, GIB } from '../../bytes.ts';
import type { Claim, LateHandler, Later, LateWriteHandler, Vm } from '../../native.ts';
import type { Passthrough, VfioArea } from '../../native-vfio.ts';
import type { FunctionBar, PassthroughHost } from '../device.ts';
import type { VfioBackend } from './device.ts';

const PAGE_BYTES = 4096;
/** An access that is ours to answer has an offset of 32 bits. */
const CLAIM_BYTES = 2 * GIB;

/** A part that is ours to answer. */
export interface OwnPart {
  offset: number;
  sizeBytes: number;
  handler: LateWriteHandler;
}

export interface VfioBarOptions {
  index: number;
  width: 32 | 64;
  sizeBytes: number;
  isPrefetchable: boolean;
  gpa: number;
  /** What can be mapped; none if exits are to serve all of it. */
  areas: readonly VfioArea[];
  device: Pick<VfioBackend, 'read' | 'write' | 'map'>;
  vm: Pick<Vm, 'claim' | 'release'>;
  guest: Pick<Passthrough, 'unmap'>;
  isWindow: PassthroughHost['isWindow'];
}

export class VfioBar {
  readonly options: VfioBarOptions;
  /** Made when the parts are known, which is after the BARs. */
  #parts: readonly OwnPart[] = [];
  #areas: readonly VfioArea[];
  #gpa: number;
  readonly #claims: Claim[] = [];
  readonly #mapped: number[] = [];

  constructor(options: VfioBarOptions) {
    this.options = options;
    this.#gpa = options.gpa;
    this.#areas = options.areas;
  }

  get bar(): FunctionBar {
    const { index, width, sizeBytes } = this.options;
    return { index, width, sizeBytes, gpa: this.#gpa };
  }

  /** Before the guest sees it: their pages are not the guest's to reach. */
  setOwnParts(parts: readonly OwnPart[]): void {
    this.#parts = parts;
    this.#areas = parts.reduce<readonly VfioArea[]>(
      (areas, part) => areas.flatMap((area) => without(area, part)),
      this.options.areas,
    );
  }

  /**
   * The guest may choose any place: RAM, another device's, none of PCI's. There the BAR answers
   * nowhere, as far as it is taken.
   */
  move(gpa: number | undefined): void {
    const { vm, guest, sizeBytes, isWindow } = this.options;
    for (const number of this.#mapped.splice(0)) guest.unmap(number);
    for (const claim of this.#claims.splice(0)) vm.release(claim);
    if (gpa === undefined) return;
    this.#gpa = gpa;
    if (!isWindow(gpa, sizeBytes) || !this.#claim(gpa)) return;
    for (const area of this.#areas) this.#map(gpa, area);
  }

  #claim(gpa: number): boolean {
    const { vm, sizeBytes } = this.options;
    for (let offset = 0; offset < sizeBytes; offset += CLAIM_BYTES) {
      const length = Math.min(CLAIM_BYTES, sizeBytes - offset);
      const claim: Claim = { space: 'mmio', base: gpa + offset, sizeBytes: length };
      try {
        vm.claim(claim, this.#answer(offset));
      } catch {
        for (const made of this.#claims.splice(0)) vm.release(made);
        return false;
      }
      this.#claims.push(claim);
    }
    return true;
  }

  #map(gpa: number, area: VfioArea): void {
    const { device, index } = this.options;
    try {
      this.#mapped.push(device.map(gpa + area.offset, index, area));
    } catch {
      // RAM is there; or the host has no more to give, and exits serve it.
    }
  }

  #answer(base: number): LateHandler {
    return {
      read: (offset, sizeBytes) => this.#read(base + offset, sizeBytes),
      write: (offset, sizeBytes, value) => this.#write(base + offset, sizeBytes, value),
    };
  }

  #read(offset: number, sizeBytes: number): Later<number> {
    const { device, index } = this.options;
    const part = this.#partAt(offset);
    if (part) return part.handler.read(offset - part.offset, sizeBytes);
    return device.read(index, offset, sizeBytes);
  }

  #write(offset: number, sizeBytes: number, value: number): Later<void> {
    const { device, index } = this.options;
    const part = this.#partAt(offset);
    if (part) return part.handler.write(offset - part.offset, sizeBytes, value);
    return device.write(index, offset, sizeBytes, value);
  }

  #partAt(at: number): OwnPart | undefined {
    return this.#parts.find(({ offset, sizeBytes }) => at >= offset && at < offset + sizeBytes);
  }
}

/** An area less the pages that a part lies in. */
function without(area: VfioArea, part: { offset: number; sizeBytes: number }): VfioArea[] {
  const end = area.offset + area.sizeBytes;
  const from = Math.min(alignDown(part.offset, PAGE_BYTES), end);
  const to = Math.max(alignUp(part.offset + part.sizeBytes, PAGE_BYTES), area.offset);
  return [
    { offset: area.offset, sizeBytes: from - area.offset },
    { offset: to, sizeBytes: end - to },
  ].filter(({ sizeBytes }) => sizeBytes > 0);
}
