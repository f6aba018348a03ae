/** A PCI device of the host's own, which Linux hands out by VFIO. */
import { allOnes } from '../../bytes.ts';
import { VmmError } from '../../errors.ts';
import type { EventFd } from '../../native.ts';
import { VFIO, type VfioArea, type VfioDevice } from '../../native-vfio.ts';
import type { DeviceContext, PassthroughHost } from '../device.ts';
import { FUNCTION_BYTES, SPACE_BYTES } from '../pci/config-space.ts';
import type { VfioConfig } from './config.ts';
import type { VfioBackend } from './device.ts';
import { type FunctionContext, VfioFunction } from './function.ts';
import { openFault } from './open-fault.ts';
import { findHostDevice, refusedDevice } from './sysfs.ts';

/** @throws VmmError 'invalid-config' if the device is not to be had, 'host' if the host fails. */
export async function openHostDevice(
  config: VfioConfig,
  context: FunctionContext & Pick<DeviceContext, 'iommu'>,
): Promise<VfioFunction> {
  const { id, passthrough, iommu } = context;
  const { name, group } = findHostDevice(config.path ?? '', id);
  const first = iommu?.isBypassed ? 'ram' : 'nothing';
  let device: VfioDevice;
  try {
    device = await passthrough.open(group, name, config.iommu ? first : undefined);
  } catch (cause) {
    throw openFault(cause, config.path ?? '', id);
  }
  const backend = new HostDevice(device, passthrough);
  try {
    return await VfioFunction.make(backend, context, config.x_exclude_mmap_bars);
  } catch (cause) {
    await backend.close();
    if (cause instanceof VmmError) throw cause;
    throw refusedDevice(
      `${name} cannot be used: ${(cause as Error).message}`,
      `The path of device ${id} is ${config.path}: try another device`,
      cause,
    );
  }
}

class HostDevice implements VfioBackend {
  readonly regions;
  readonly irqCounts;
  readonly follower;
  readonly #device: VfioDevice;
  readonly #passthrough: PassthroughHost;
  #closed: Promise<void> | undefined;

  constructor(device: VfioDevice, passthrough: PassthroughHost) {
    this.#device = device;
    this.#passthrough = passthrough;
    this.regions = device.regions();
    this.irqCounts = device.irqCounts();
    this.follower = passthrough.followerOf(device);
  }

  async readConfig(): Promise<Uint8Array> {
    const sizeBytes = Math.min(this.regions[VFIO.configRegion]?.sizeBytes ?? 0, FUNCTION_BYTES);
    const bytes = new Uint8Array(Math.max(sizeBytes, SPACE_BYTES));
    const view = new DataView(bytes.buffer);
    for (let at = 0; at + 4 <= sizeBytes; at += 4)
      view.setUint32(at, this.#device.read(VFIO.configRegion, at, 4), true);
    return bytes;
  }

  read(region: number, offset: number, sizeBytes: number): number {
    try {
      return this.#device.read(region, offset, sizeBytes);
    } catch {
      return allOnes(sizeBytes);
    }
  }

  write(region: number, offset: number, sizeBytes: number, value: number): void {
    try {
      this.#device.write(region, offset, sizeBytes, value);
    } catch {
      // It is gone, as a write to an empty slot.
    }
  }

  map(gpa: number, region: number, area: VfioArea): number {
    return this.#passthrough.guest.map(gpa, this.#device, region, area);
  }

  setIrqs(index: number, events: readonly EventFd[]): void {
    this.#device.setIrqs(index, events);
  }

  setUnmask(event: EventFd): void {
    this.#device.setUnmask(event);
  }

  settled(): undefined {}

  onRequest(handler: () => void): void {
    this.#device.onRequest(handler);
  }

  reset(): Promise<void> {
    return this.#device.reset();
  }

  close(): Promise<void> {
    this.#closed ??= this.#passthrough.close(this.#device);
    return this.#closed;
  }
}
