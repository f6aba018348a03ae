/** What the devices of the host's own share in a VM: the IOMMU, which is to know its memory. */
import type { PassthroughHost, PluggableBlocks } from '../devices/device.ts';
import { VmmError } from '../errors.ts';
import type { EventFd, GuestMemory, Native, Vm } from '../native.ts';
import type { Passthrough, VfioContainer, VfioDevice } from '../native-vfio.ts';
import type { GpaRange } from './layout.ts';

export interface SharedPassthroughOptions {
  native: Pick<Native, 'EventFd' | 'Passthrough' | 'VfioContainer' | 'VfioDevice'>;
  vm: Vm;
  memory: GuestMemory;
  /** Memory that the guest plugs by the block. */
  blocks: readonly PluggableBlocks[];
  /** Where BARs may lie. */
  windows: readonly GpaRange[];
  onWarning(message: string): void;
}

export class SharedPassthrough implements PassthroughHost {
  readonly #options: SharedPassthroughOptions;
  #guest: Passthrough | undefined;
  /** From the first device on to the last. */
  #container: VfioContainer | undefined;
  readonly #groups = new Map<VfioDevice, string>();
  /** Devices that are there, or about to be. */
  #count = 0;
  #turn: Promise<void> = Promise.resolve();
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

  async open(group: string, name: string): Promise<VfioDevice> {
    const { native } = this.#options;
    this.#count++; // from now on nothing is discarded that the device may be given
    try {
      await Promise.all(this.#discarding);
      this.#container ??= new native.VfioContainer();
      const device = new native.VfioDevice();
      await device.open(this.#container, group, name);
      this.#groups.set(device, group);
      try {
        await this.#follow();
        this.guest.hold(device);
      } catch (error) {
        await this.#release(device);
        throw error;
      }
      return device;
    } catch (error) {
      this.#leave();
      throw error;
    }
  }

  async close(device: VfioDevice): Promise<void> {
    // One without a reset is reset by Linux as far as it can be.
    await device.reset().catch(() => {});
    await this.#release(device);
    this.#leave();
  }

  /** Resolves when devices reach the memory that there is now, and no other. */
  async memoryChanged(): Promise<void> {
    if (this.#count === 0) return;
    try {
      await this.#follow();
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

  /** One at a time, and each as memory is when it begins: the last one is right. */
  #follow(): Promise<void> {
    const { memory, blocks, onWarning } = this.#options;
    const done = this.#turn.then(async () => {
      const usable = blocks.map(({ gpa, blockBytes, usableBytes, plugged }) => {
        return { gpa, blockBytes, plugged: plugged.subarray(0, usableBytes / blockBytes) };
      });
      await this.#container?.follow(memory, usable);
      const leftOutBytes = this.#container?.leftOutBytes() ?? 0;
      if (leftOutBytes > 0)
        onWarning(`Devices passed through do not reach ${leftOutBytes} bytes of mapped files`);
    });
    this.#turn = done.catch(() => {});
    return done;
  }

  /** KVM lets go of the group first, which is free only then. */
  async #release(device: VfioDevice): Promise<void> {
    const group = this.#groups.get(device);
    this.#groups.delete(device);
    const isLast = ![...this.#groups.values()].includes(group ?? '');
    if (isLast) this.guest.drop(device);
    await device.close();
  }

  #leave(): void {
    if (--this.#count > 0) return;
    this.#container?.close();
    this.#container = undefined;
  }
}
