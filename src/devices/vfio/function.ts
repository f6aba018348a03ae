/**
 * A PCI function that is handed to the guest by VFIO, or by vfio-user.
 *
 * Data plane: the device, which reads and writes guest memory, and signals KVM. This file puts
 * together what the guest finds: configuration space, BARs, interrupts.
 */
import { Reader } from '../../bytes.ts';
import type { EventFd } from '../../native.ts';
import type { MappingFollower } from '../../native-iommu.ts';
import { VFIO, type VfioRegion } from '../../native-vfio.ts';
import type { DeviceContext, FunctionBar, PciFunction } from '../device.ts';
import { BAR_64, BAR_COUNT, BAR_PREFETCHABLE, BARS } from '../pci/config-space.ts';
import { Msi, parseMsiControl } from '../pci/msi.ts';
import { Msix } from '../pci/msix.ts';
import { type OwnPart, VfioBar } from './bars.ts';
import { CAPABILITY } from './capabilities.ts';
import { VfioConfigSpace } from './config-space.ts';
import type { VfioBackend } from './device.ts';
import { Interrupts } from './interrupts.ts';

/** Of the low bits of a BAR: it is of ports. */
const BAR_IO = 0b1;
const MSIX_BAR = 0b111;

export type FunctionContext = Pick<
  DeviceContext,
  'id' | 'vm' | 'passthrough' | 'placeBar' | 'lineGsi' | 'onWarning' | 'onReclaim'
>;

export class VfioFunction implements PciFunction {
  readonly space: VfioConfigSpace;
  readonly #device: VfioBackend;
  readonly #context: FunctionContext;
  /** Its configuration space, as it was at first. */
  readonly #config: Reader;
  readonly #bars: readonly VfioBar[];
  readonly #interrupts: Interrupts;
  #msi: Msi | undefined;
  #msix: Msix | undefined;
  #reset: Promise<void> = Promise.resolve();
  #isClosed = false;

  private constructor(
    device: VfioBackend,
    config: Uint8Array,
    context: FunctionContext,
    excluded: readonly number[],
  ) {
    this.#device = device;
    this.#config = new Reader(config);
    this.#context = context;
    const lineGsi = (device.irqCounts[VFIO.intx] ?? 0) > 0 ? context.lineGsi : undefined;
    this.#interrupts = new Interrupts({
      ...{ device, lineGsi, guest: context.passthrough.guest },
      openEventFd: () => context.passthrough.openEventFd(),
      onWarning: (message) => this.#warn(message),
    });
    try {
      this.space = new VfioConfigSpace({
        ...{ device, config, lineGsi },
        onLine: (isOn) => this.#interrupts.turnLine(isOn),
        onReset: () => this.#resetByGuest(),
      });
      this.#bars = this.#makeBars(excluded);
      this.#addInterrupts();
      this.#interrupts.turnLine(true);
      device.onRequest(() => context.onReclaim());
    } catch (error) {
      void this.#closeInterrupts();
      throw error;
    }
  }

  /**
   * The function of a device, whose it is from then on. BARs in `excluded` are not mapped.
   * @throws Error, and the device is the caller's to close.
   */
  static async make(
    device: VfioBackend,
    context: FunctionContext,
    excluded: readonly number[] = [],
  ): Promise<VfioFunction> {
    return new VfioFunction(device, await device.readConfig(), context, excluded);
  }

  get bars(): readonly FunctionBar[] {
    return this.#bars.map(({ bar }) => bar);
  }

  get follower(): MappingFollower | undefined {
    return this.#device.follower;
  }

  /** What the device does on its own, goes on: Linux cannot stop it, nor tell when it is done. */
  async pause(): Promise<void> {
    await this.#reset;
  }

  resume(): void {}

  async memoryChanged(): Promise<void> {
    await this.#device.memoryChanged?.();
  }

  unplug(): void {
    for (const bar of this.#bars) bar.move(undefined);
    this.space.stopMastering();
    this.#interrupts.stop();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    if (this.#isClosed) return;
    this.#isClosed = true;
    this.space.stopMastering();
    await this.#closeInterrupts();
    await this.#reset;
    await this.#device.close();
  }

  async #closeInterrupts(): Promise<void> {
    this.#interrupts.close();
    await Promise.all([this.#msi?.close(), this.#msix?.close()]);
  }

  /** The guest waits 100 ms after it has asked, and then for as long as the device says. */
  #resetByGuest(): void {
    this.#reset = this.#reset.then(async () => {
      if (this.#isClosed) return;
      try {
        await this.#device.reset();
      } catch (error) {
        this.#warn(`It cannot be reset: ${(error as Error).message}`);
      }
    });
  }

  #makeBars(excluded: readonly number[]): VfioBar[] {
    const { regions } = this.#device;
    const bars: VfioBar[] = [];
    for (let index = 0; index < BAR_COUNT; index++) {
      const low = this.#config.u32(BARS + 4 * index);
      const region = regions[index];
      // Ports are left out: what a device has there, it has in memory, too.
      if (!region || region.sizeBytes === 0 || (low & BAR_IO) !== 0) continue;
      bars.push(this.#makeBar(index, low, region, excluded));
      if ((low & BAR_64) !== 0) index++;
    }
    return bars;
  }

  #makeBar(index: number, low: number, region: VfioRegion, excluded: readonly number[]): VfioBar {
    const { vm, passthrough, placeBar } = this.#context;
    const { sizeBytes, areas } = region;
    const width = (low & BAR_64) !== 0 ? 64 : 32;
    if (!canBe({ index, width, sizeBytes }))
      throw new Error(`BAR ${index} of ${width} bits has ${sizeBytes} bytes`);
    const isExcluded = excluded.includes(index);
    const gpa = placeBar(width, sizeBytes);
    const isPrefetchable = width === 64 && (low & BAR_PREFETCHABLE) !== 0;
    const bar = new VfioBar({
      ...{ index, width, sizeBytes, isPrefetchable, gpa, areas: isExcluded ? [] : areas },
      ...{ device: this.#device, vm, guest: passthrough.guest },
      isWindow: (at, length) => passthrough.isWindow(at, length),
    });
    this.space.header.addBar({
      ...{ index, width, sizeBytes, gpa, onMove: (to) => bar.move(to) },
      ...(isPrefetchable && { prefetchable: true }),
    });
    return bar;
  }

  #addInterrupts(): void {
    const { vm, passthrough } = this.#context;
    const counts = this.#device.irqCounts;
    const own = {
      openEventFd: () => passthrough.openEventFd(),
      openMsi: (irq: EventFd) => vm.msi(irq),
    };
    const msi = this.space.find(CAPABILITY.msi);
    if (msi !== undefined && (counts[VFIO.msi] ?? 0) > 0) {
      const said = parseMsiControl(this.#config.u16(msi + 2));
      this.#msi = new Msi(this.space.at(msi), {
        ...{ ...said, ...own },
        onEnabled: (irqs) => this.#interrupts.turn('msi', irqs),
      });
    }
    const msix = this.space.find(CAPABILITY.msix);
    if (msix !== undefined && (counts[VFIO.msix] ?? 0) > 0) this.#addMsix(msix, own);
  }

  #addMsix(
    at: number,
    own: Pick<ConstructorParameters<typeof Msix>[1], 'openEventFd' | 'openMsi'>,
  ) {
    const vectorCount = (this.#config.u16(at + 2) & 0x7ff) + 1;
    const [table, pending] = [this.#config.u32(at + 4), this.#config.u32(at + 8)];
    if (vectorCount > (this.#device.irqCounts[VFIO.msix] ?? 0))
      throw new Error(`its MSI-X table has ${vectorCount} entries, more than it has interrupts`);
    const place = (word: number) => ({ bar: word & MSIX_BAR, offset: (word & ~MSIX_BAR) >>> 0 });
    const msix = new Msix(this.space.at(at), {
      ...{ vectorCount, bar: place(table).bar, tableOffset: place(table).offset },
      ...{ pendingBar: place(pending).bar, pendingOffset: place(pending).offset },
      ...own,
      onEnabled: (irqs) => this.#interrupts.turn('msix', irqs),
    });
    this.#msix = msix;
    const parts: (OwnPart & { bar: number })[] = [
      { ...place(table), sizeBytes: 16 * vectorCount, handler: msix.table },
      { ...place(pending), sizeBytes: 8 * Math.ceil(vectorCount / 64), handler: msix.pending },
    ];
    const sizeOf = (index: number) =>
      this.#bars.find(({ bar }) => bar.index === index)?.bar.sizeBytes ?? 0;
    const outside = parts.find(({ bar, offset, sizeBytes }) => offset + sizeBytes > sizeOf(bar));
    if (outside) throw new Error(`its MSI-X table is not within BAR ${outside.bar}`);
    for (const bar of this.#bars)
      bar.setOwnParts(parts.filter(({ bar: index }) => index === bar.bar.index));
  }

  #warn(message: string): void {
    this.#context.onWarning(`Device ${this.#context.id}: ${message}`);
  }
}

/** Most that a BAR may have: a TiB. */
const BAR_BYTES_MAX = 2 ** 40;

/** PCI Local Bus 3.0 §6.2.5.1: a power of two from 16, and half of the addresses at most. */
const canBe = ({ index, width, sizeBytes }: Pick<FunctionBar, 'index' | 'width' | 'sizeBytes'>) =>
  Number.isInteger(Math.log2(sizeBytes)) &&
  sizeBytes >= 16 &&
  sizeBytes <= (width === 64 ? BAR_BYTES_MAX : 2 ** 31) &&
  (width === 32 || index < BAR_COUNT - 1);
