/** What the devices of the host's own share in a VM: the IOMMU, which is to know its memory. */
import { basename } from 'node:path';
import type { PassthroughHost } from '../devices/device.ts';
import { VmmError } from '../errors.ts';
import type { EventFd, Native, Vm } from '../native.ts';
import type { MappingFollower } from '../native-iommu.ts';
import type { Passthrough, VfioDevice } from '../native-vfio.ts';
import { DmaContainer, type DmaContainerOptions, OwnContainerError } from './dma-container.ts';
import type { GpaRange } from './layout.ts';

export interface SharedPassthroughOptions extends DmaContainerOptions {
  native: Pick<Native, 'EventFd' | 'Passthrough' | 'VfioContainer' | 'VfioDevice'>;
  vm: Vm;
  /** Where BARs may lie. */
  windows: readonly GpaRange[];
}

interface Opened {
  group: string;
  container: DmaContainer;
}

export class SharedPassthrough implements PassthroughHost {
  readonly #options: SharedPassthroughOptions;
  #guest: Passthrough | undefined;
  /** Of those that reach all memory, from the first one on to the last. */
  #shared: DmaContainer | undefined;
  readonly #opened = new Map<VfioDevice, Opened>();
  /** Devices that are there, or about to be. */
  #count = 0;
  readonly #discarding = new Set<Promise<void>>();

  constructor(options: SharedPassthroughOptions) {
    this.#options = options;
  }

  get guest(): Passthrough {
    const { native, vm } = this.#options;
    this.#guest ??= new native.Passthrough(vm);
    return this.#guest;
  }

  openEventFd(): EventFd {
    return new this.#options.native.EventFd();
  }

  isWindow(gpa: number, sizeBytes: number): boolean {
    return this.#options.windows.some(
      (window) => gpa >= window.gpa && gpa + sizeBytes <= window.gpa + window.sizeBytes,
    );
  }

  async open(group: string, name: string, reach?: 'ram' | 'nothing'): Promise<VfioDevice> {
    const { native } = this.#options;
    this.#count++; // from now on nothing is discarded that the device may be given
    try {
      await Promise.all(this.#discarding);
      const container = this.#containerFor(group, reach);
      const device = new native.VfioDevice();
      this.#opened.set(device, { group, container });
      let isOpen = false;
      try {
        await device.open(container.core, group, name);
        isOpen = true;
        if (reach) container.findLimits();
        if (reach === 'nothing') await container.attached(reach);
        await this.#follow(container);
        this.guest.hold(device);
      } catch (error) {
        await this.#release(device, isOpen);
        throw error;
      }
      return device;
    } catch (error) {
      this.#leave();
      throw error;
    }
  }

  followerOf(device: VfioDevice): MappingFollower | undefined {
    const container = this.#opened.get(device)?.container;
    return container === this.#shared ? undefined : container;
  }

  async close(device: VfioDevice): Promise<void> {
    // One without a reset is reset by Linux as far as it can be.
    await device.reset().catch(() => {});
    await this.#release(device);
    this.#leave();
  }

  /** Resolves when devices reach the memory that there is now, and no other. */
  async memoryChanged(): Promise<void> {
    const containers = new Set([...this.#opened.values()].map(({ container }) => container));
    try {
      await Promise.all([...containers].map((container) => this.#follow(container)));
    } catch (cause) {
      throw new VmmError(
        'host',
        'Failed to update guest memory for VFIO PCI device',
        new Error('failed to add guest memory map into iommu table', { cause }),
      );
    }
  }

  /** See DeviceContext. */
  async discard(ranges: Float64Array): Promise<void> {
    if (this.#count > 0) return;
    const discarded = this.#options.memory.discard(ranges);
    const settled = discarded.catch(() => {}).finally(() => this.#discarding.delete(settled));
    this.#discarding.add(settled);
    await discarded;
  }

  async #follow(container: DmaContainer): Promise<void> {
    const leftOutBytes = await container.follow();
    if (leftOutBytes > 0)
      this.#options.onWarning(
        `Devices passed through do not reach ${leftOutBytes} bytes of mapped files`,
      );
  }

  /**
   * Behind the virtio-iommu each device has one of its own, and so a group of its own, for Linux
   * knows of no smaller part than that.
   */
  #containerFor(group: string, reach: 'ram' | 'nothing' | undefined): DmaContainer {
    const { native } = this.#options;
    const other = [...this.#opened.values()].find((one) => one.group === group);
    if (other && (reach || other.container !== this.#shared)) throw sharedGroup(group);
    if (reach) return new DmaContainer(new native.VfioContainer(), this.#options);
    this.#shared ??= new DmaContainer(new native.VfioContainer(), this.#options);
    return this.#shared;
  }

  /** KVM lets go of the group first, which is free only then. */
  async #release(device: VfioDevice, isOpen = true): Promise<void> {
    const opened = this.#opened.get(device);
    this.#opened.delete(device);
    const others = [...this.#opened.values()];
    if (isOpen && !others.some(({ group }) => group === opened?.group)) this.guest.drop(device);
    await device.close();
    if (opened && opened.container !== this.#shared) opened.container.close();
  }

  #leave(): void {
    if (--this.#count > 0) return;
    this.#shared?.close();
    this.#shared = undefined;
  }
}

const sharedGroup = (group: string): Error =>
  new OwnContainerError('EBUSY', `the guest has another device of group ${basename(group)}`);
