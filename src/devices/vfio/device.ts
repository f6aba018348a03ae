/**
 * A PCI device of the host's own, handed to the guest by VFIO.
 *
 * Data plane: the device, which reads and writes guest memory, and signals KVM. This file puts
 * together what the guest finds: configuration space, BARs, interrupts.
 */
import { Reader } from '../../bytes.ts';
import { VmmError } from '../../errors.ts';
import type { EventFd } from '../../native.ts';
import { VFIO, type VfioDevice, type VfioRegion } from '../../native-vfio.ts';
import type { DeviceContext, FunctionBar, PciFunction } from '../device.ts';
import { BAR_64, BAR_COUNT, BAR_PREFETCHABLE, BARS } from '../pci/config-space.ts';
import { Msi, parseMsiControl } from '../pci/msi.ts';
import { Msix } from '../pci/msix.ts';
import { type OwnPart, VfioBar } from './bars.ts';
import { CAPABILITY } from './capabilities.ts';
import type { VfioConfig } from './config.ts';
import { VfioConfigSpace } from './config-space.ts';
import { Interrupts } from './interrupts.ts';
import { openFault } from './open-fault.ts';
import { findHostDevice, refusedDevice } from './sysfs.ts';

/** Of the low bits of a BAR: it is of ports. */
const BAR_IO = 0b1;
const MSIX_BAR = 0b111;

type VfioContext = Pick<
  DeviceContext,
  'id' | 'vm' | 'passthrough' | 'placeBar' | 'lineGsi' | 'onWarning' | 'onReclaim'
>;

export class VfioPci implements PciFunction {
  readonly space: VfioConfigSpace;
  readonly #device: VfioDevice;
  readonly #context: VfioContext;
  readonly #bars: readonly VfioBar[];
  readonly #interrupts: Interrupts;
  #msi: Msi | undefined;
  #msix: Msix | undefined;
  #reset: Promise<void> = Promise.resolve();
  #isClosed = false;

  private constructor(device: VfioDevice, config: VfioConfig, context: VfioContext) {
    this.#device = device;
    this.#context = context;
    const lineGsi = (device.irqCounts()[VFIO.intx] ?? 0) > 0 ? context.lineGsi : undefined;
    this.#interrupts = new Interrupts({
      ...{ device, lineGsi, guest: context.passthrough.guest },
      openEventFd: () => context.passthrough.openEventFd(),
      onWarning: (message) => this.#warn(message),
    });
    try {
      this.space = new VfioConfigSpace({
        ...{ device, lineGsi },
        onLine: (isOn) => this.#interrupts.turnLine(isOn),
        onReset: () => this.#resetByGuest(),
      });
      this.#bars = this.#makeBars(config);
      this.#addInterrupts();
      this.#interrupts.turnLine(true);
      device.onRequest(() => context.onReclaim());
    } catch (error) {
      this.#closeInterrupts();
      throw error;
    }
  }

  /** @throws VmmError 'invalid-config' if the device is not to be had, 'host' if the host fails. */
  static async open(config: VfioConfig, context: VfioContext): Promise<VfioPci> {
    const { id, passthrough } = context;
    const { name, group } = findHostDevice(config.path ?? '', id);
    let device: VfioDevice;
    try {
      device = await passthrough.open(group, name);
    } catch (cause) {
      throw openFault(cause, config.path ?? '', id);
    }
    try {
      return new VfioPci(device, config, context);
    } catch (cause) {
      await passthrough.close(device);
      if (cause instanceof VmmError) throw cause;
      throw refusedDevice(
        `${name} cannot be used: ${(cause as Error).message}`,
        `The path of device ${id} is ${config.path}: try another device`,
        cause,
      );
    }
  }

  get bars(): readonly FunctionBar[] {
    return this.#bars.map(({ bar }) => bar);
  }

  /** What the device does on its own, goes on: Linux cannot stop it, nor tell when it is done. */
  async pause(): Promise<void> {
    await this.#reset;
  }

  resume(): void {}

  unplug(): void {
    for (const bar of this.#bars) bar.move(undefined);
    this.space.stopMastering();
    this.#interrupts.stop();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    if (this.#isClosed) return;
    this.#isClosed = true;
    this.space.stopMastering();
    this.#closeInterrupts();
    await this.#reset;
    await this.#context.passthrough.close(this.#device);
  }

  #closeInterrupts(): void {
    this.#interrupts.close();
    this.#msi?.close();
    this.#msix?.close();
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

  #makeBars(config: VfioConfig): VfioBar[] {
    const regions = this.#device.regions();
    const bars: VfioBar[] = [];
    for (let index = 0; index < BAR_COUNT; index++) {
      const low = this.#device.read(VFIO.configRegion, BARS + 4 * index, 4);
      const region = regions[index];
      // Ports are left out: what a device has there, it has in memory, too.
      if (!region || region.sizeBytes === 0 || (low & BAR_IO) !== 0) continue;
      bars.push(this.#makeBar(index, low, region, config));
      if ((low & BAR_64) !== 0) index++;
    }
    return bars;
  }

  #makeBar(index: number, low: number, region: VfioRegion, config: VfioConfig): VfioBar {
    const { vm, passthrough, placeBar } = this.#context;
    const { sizeBytes, areas } = region;
    const width = (low & BAR_64) !== 0 ? 64 : 32;
    const isExcluded = config.x_exclude_mmap_bars.includes(index);
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
    const counts = this.#device.irqCounts();
    const own = {
      openEventFd: () => passthrough.openEventFd(),
      openMsi: (irq: EventFd) => vm.msi(irq),
    };
    const msi = this.space.find(CAPABILITY.msi);
    if (msi !== undefined) {
      const said = parseMsiControl(this.#device.read(VFIO.configRegion, msi + 2, 2));
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
    const own12 = new Uint8Array(12);
    const view = new DataView(own12.buffer);
    for (const word of [0, 4, 8])
      view.setUint32(word, this.#device.read(VFIO.configRegion, at + word, 4), true);
    const fields = new Reader(own12);
    const vectorCount = (fields.u16(2) & 0x7ff) + 1;
    const [table, pending] = [fields.u32(4), fields.u32(8)];
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
    for (const bar of this.#bars)
      bar.setOwnParts(parts.filter(({ bar: index }) => index === bar.bar.index));
  }

  #warn(message: string): void {
    this.#context.onWarning(`Device ${this.#context.id}: ${message}`);
  }
}
