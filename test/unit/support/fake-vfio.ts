/** A PCI device of the host's, KVM's part of it, and what a VM's devices share, without any host. */
import type { PassthroughHost } from '../../../src/devices/device.ts';
import type { EventFd } from '../../../src/native.ts';
import type { MappingFollower } from '../../../src/native-iommu.ts';
import {
  type Passthrough,
  VFIO,
  type VfioArea,
  type VfioDevice,
  type VfioRegion,
} from '../../../src/native-vfio.ts';
import { FakeEventFd } from './fake-host.ts';

const CONFIG_BYTES = 4096;

/** A function with what the tests want of one, laid out like an NVMe controller of QEMU's. */
export class FakeVfioDevice implements VfioDevice {
  readonly config = new DataView(new ArrayBuffer(CONFIG_BYTES));
  /** By region: what was written there, as [offset, sizeBytes, value]. */
  readonly writes = new Map<number, [number, number, number][]>();
  readonly irqs = new Map<number, readonly EventFd[]>();
  unmask: EventFd | undefined;
  resetCount = 0;
  isClosed = false;
  isGone = false;
  request: (() => void) | undefined;
  readonly #regions: VfioRegion[];

  constructor(bars: readonly (VfioRegion & { low: number })[] = [BAR0]) {
    const none = { sizeBytes: 0, areas: [] };
    this.#regions = Array.from({ length: 7 }, (_, i) => bars[i] ?? none);
    this.#regions.push({ sizeBytes: CONFIG_BYTES, areas: [] });
    const { config } = this;
    for (const [at, value] of [
      [0x00, 0x0010_1b36],
      [0x04, 0x0010_0000],
      [0x08, 0x0108_0202],
      [0x0c, 0x0080_0000], // says that it has more functions
      [0x2c, 0x1100_1af4],
      [0x30, 0xfebf_0001], // a ROM
      [0x34, 0x40],
      [0x3c, 0x0000_020b], // pin B
    ] as const)
      config.setUint32(at, value, true);
    for (const [i, { low }] of bars.entries()) config.setUint32(0x10 + 4 * i, low, true);
  }

  /** Puts a capability there, from its id on. */
  put(at: number, ...dwords: number[]): this {
    for (const [i, dword] of dwords.entries()) this.config.setUint32(at + 4 * i, dword, true);
    return this;
  }

  async open(): Promise<void> {}

  regions(): VfioRegion[] {
    return this.#regions;
  }

  irqCounts(): number[] {
    return [1, 8, 65, 1, 1];
  }

  read(region: number, offset: number, sizeBytes: number): number {
    if (this.isGone) throw new Error('EIO: I/O error, pread(VFIO device)');
    if (region !== VFIO.configRegion) return 0x5a;
    const bytes = new DataView(this.config.buffer, offset, sizeBytes);
    if (sizeBytes === 4) return bytes.getUint32(0, true);
    return sizeBytes === 2 ? bytes.getUint16(0, true) : bytes.getUint8(0);
  }

  write(region: number, offset: number, sizeBytes: number, value: number): void {
    if (this.isGone) throw new Error('EIO: I/O error, pwrite(VFIO device)');
    this.writes.set(region, [...this.written(region), [offset, sizeBytes, value]]);
  }

  written(region: number): [number, number, number][] {
    return this.writes.get(region) ?? [];
  }

  setIrqs(index: number, events: readonly EventFd[]): void {
    if (events.length > 0) this.irqs.set(index, events);
    else this.irqs.delete(index);
  }

  setUnmask(event: EventFd): void {
    this.unmask = event;
  }

  onRequest(handler: () => void): void {
    this.request = handler;
  }

  async reset(): Promise<void> {
    this.resetCount++;
  }

  async close(): Promise<void> {
    this.isClosed = true;
  }
}

/** 16 KiB of 64 bits, all of which can be mapped. */
const BAR0 = {
  sizeBytes: 0x4000,
  areas: [{ offset: 0, sizeBytes: 0x4000 }],
  low: 0xfebf_0004,
};

/** Where the guest finds what, and its lines. */
export class FakePassthrough implements Passthrough {
  readonly mapped = new Map<number, { gpa: number; region: number } & VfioArea>();
  readonly lines = new Map<number, EventFd>();
  /** As if RAM were there. */
  refuse: (gpa: number) => boolean = () => false;
  #next = 0;

  map(gpa: number, _: VfioDevice, region: number, area: VfioArea): number {
    if (this.refuse(gpa)) throw new Error('EEXIST: File exists');
    this.mapped.set(this.#next, { gpa, region, ...area });
    return this.#next++;
  }

  mapFile(gpa: number, _: number, offset: number, sizeBytes: number): number {
    this.mapped.set(this.#next, { gpa, region: -1, offset, sizeBytes });
    return this.#next++;
  }

  unmap(number: number): void {
    this.mapped.delete(number);
  }

  hold(): void {}
  drop(): void {}

  connect(gsi: number, irq: EventFd): void {
    this.lines.set(gsi, irq);
  }

  disconnect(gsi: number): void {
    this.lines.delete(gsi);
  }
}

export class FakePassthroughHost implements PassthroughHost {
  readonly guest = new FakePassthrough();
  device = new FakeVfioDevice();
  /** Of a device behind the virtio-iommu, what it was to reach at first. */
  reach: 'ram' | 'nothing' | undefined;
  follower: MappingFollower | undefined;
  /** Instead of a device. */
  fault: unknown;
  window = { gpa: 0xc000_0000, sizeBytes: 0x2800_0000 };

  openEventFd(): FakeEventFd {
    return new FakeEventFd();
  }

  async open(_group: string, _name: string, reach?: 'ram' | 'nothing'): Promise<VfioDevice> {
    if (this.fault) throw this.fault;
    this.reach = reach;
    return this.device;
  }

  followerOf(): MappingFollower | undefined {
    return this.follower;
  }

  async close(device: VfioDevice): Promise<void> {
    await device.reset();
    await device.close();
  }

  isWindow(gpa: number, sizeBytes: number): boolean {
    const { window } = this;
    return gpa >= window.gpa && gpa + sizeBytes <= window.gpa + window.sizeBytes;
  }

  async memoryChanged(): Promise<void> {}
  async discard(): Promise<void> {}
}
