/** The guest's RAM as a whole: what it boots with, and what is plugged while it runs. */
import { alignDown, alignUp, hex } from '../bytes.ts';
import type { PluggableBlocks } from '../devices/device.ts';
import { VmmError } from '../errors.ts';
import type { GuestMemory, Vm } from '../native.ts';
import { blockBytes, hasBlocks, type MemoryConfig, pageBytes, ramBytes } from './config/memory.ts';
import { systemHost } from './host.ts';
import { type DeviceArea, type GpaRange, MEMORY_SECTION_BYTES, ramRegions } from './layout.ts';
import { addRam } from './memory.ts';

export class Ram {
  readonly #memory: GuestMemory;
  readonly #config: MemoryConfig;
  readonly #window: GpaRange;
  readonly #bootBytes: number;
  #pluggedBytes = 0;
  /** Where blocks may be plugged by virtio-mem, and how much of it is RAM. */
  readonly blocks: PluggableBlocks;

  private constructor(memory: GuestMemory, config: MemoryConfig, area: DeviceArea) {
    this.#memory = memory;
    this.#config = config;
    this.#window = area.pluggable;
    this.#bootBytes = ramBytes(config);
    this.blocks = {
      ...{
        gpa: this.#window.gpa,
        regionBytes: alignDown(this.#window.sizeBytes, blockBytes(config)),
      },
      ...{ blockBytes: blockBytes(config), usableBytes: 0 },
      requestedBytes: hasBlocks(config) ? (config.hotplugged_size ?? 0) : 0,
      plugged: new Uint8Array(Math.floor(this.#window.sizeBytes / blockBytes(config))),
    };
  }

  /** RAM as a boot has it. @throws VmmError 'host' if the host has not got it. */
  static async add(memory: GuestMemory, config: MemoryConfig, area: DeviceArea): Promise<Ram> {
    await addRam(memory, config, ramRegions(ramBytes(config)));
    const ram = new Ram(memory, config, area);
    await ram.#addUsable(ram.blocks.requestedBytes);
    return ram;
  }

  get sizeBytes(): number {
    return this.#bootBytes + this.#pluggedBytes;
  }

  /**
   * What has to be plugged for so much RAM; undefined if nothing: less than there is comes with the
   * next boot.
   * @throws VmmError 'invalid-config'.
   */
  missing(wantedBytes: number): GpaRange | undefined {
    const step = Math.max(MEMORY_SECTION_BYTES, pageBytes(this.#config));
    const wanted = `desired_ram is ${wantedBytes}`;
    const boot = this.#bootBytes;
    if (wantedBytes < boot) throw belowBoot(wantedBytes, boot);
    if ((wantedBytes - boot) % step !== 0)
      throw refused(
        'The requested hotplug memory addition is not a valid size',
        `${wanted}: give ${boot} and a multiple of ${step} more`,
      );
    if (wantedBytes <= this.sizeBytes) return undefined;
    if (wantedBytes - boot > this.#window.sizeBytes)
      throw refused(
        'Not enough space in the hotplug RAM region',
        `${wanted}: give at most ${boot + this.#window.sizeBytes}, ` +
          'or create the VM with more memory.hotplug_size',
      );
    if (wantedBytes > systemHost.memoryBytes())
      throw refused(
        'More memory than the host has',
        `${wanted}: give at most ${systemHost.memoryBytes()}`,
      );
    const gpa = this.#window.gpa + this.#pluggedBytes;
    return { gpa, sizeBytes: wantedBytes - this.sizeBytes };
  }

  /**
   * What of the blocks makes so much RAM in all.
   * @throws VmmError 'invalid-config'.
   */
  requested(wantedBytes: number): number {
    const { blockBytes: step, regionBytes } = this.blocks;
    const wanted = `desired_ram is ${wantedBytes}`;
    const boot = this.#bootBytes;
    if (wantedBytes < boot) throw belowBoot(wantedBytes, boot);
    const bytes = wantedBytes - boot;
    if (bytes > regionBytes)
      throw unfit(
        `new size ${hex(bytes)} is bigger than region_size ${hex(regionBytes)}`,
        `${wanted}: give at most ${boot + regionBytes}, or more memory.hotplug_size at vm.create`,
      );
    if (bytes % step !== 0)
      throw unfit(
        `new size ${hex(bytes)} is not aligned on block_size ${hex(step)}`,
        `${wanted}: give ${boot} and a multiple of ${step} more`,
      );
    return bytes;
  }

  /**
   * Has the first `sizeBytes` of the blocks be RAM. True if there was less.
   * @throws VmmError 'host', and then nothing has changed.
   */
  async makeUsable(sizeBytes: number, vm: Pick<Vm, 'mapMemory'>): Promise<boolean> {
    const { usableBytes } = this.blocks;
    const gpa = await this.#addUsable(sizeBytes);
    if (gpa === undefined) return false;
    try {
      await this.#map(gpa, vm);
    } catch (error) {
      this.blocks.usableBytes = usableBytes;
      throw error;
    }
    return true;
  }

  /** A quarter of the region at a time: regions of RAM are few, and a guest may touch all of it. */
  async #addUsable(sizeBytes: number): Promise<number | undefined> {
    const { gpa, regionBytes, blockBytes, usableBytes } = this.blocks;
    if (sizeBytes <= usableBytes) return undefined;
    const step = alignUp(Math.max(MEMORY_SECTION_BYTES, regionBytes / 4), blockBytes);
    const wanted = Math.min(alignUp(sizeBytes, step), regionBytes);
    const range = { gpa: gpa + usableBytes, sizeBytes: wanted - usableBytes };
    await addRam(this.#memory, this.#config, [range]);
    this.blocks.usableBytes = wanted;
    return range.gpa;
  }

  /** Gives the guest what is missing. @throws VmmError 'host', and then nothing has changed. */
  async plug(range: GpaRange, vm: Pick<Vm, 'mapMemory'>): Promise<void> {
    await addRam(this.#memory, this.#config, [range]);
    await this.#map(range.gpa, vm);
    this.#pluggedBytes += range.sizeBytes;
  }

  /** Takes back what was plugged last, and the guest has not heard of. */
  async unplug({ gpa, sizeBytes }: GpaRange, vm: Pick<Vm, 'mapMemory'>): Promise<void> {
    this.#pluggedBytes -= sizeBytes;
    const emptied = this.#memory.removeRegion(gpa);
    vm.mapMemory();
    await emptied;
  }

  async #map(gpa: number, vm: Pick<Vm, 'mapMemory'>): Promise<void> {
    try {
      vm.mapMemory();
    } catch (cause) {
      await this.#memory.removeRegion(gpa);
      throw new VmmError('host', 'The host cannot map more RAM into the guest', cause);
    }
  }
}

const belowBoot = (wantedBytes: number, bootBytes: number): VmmError =>
  refused(
    `Invalid resize request: desired_size = ${wantedBytes} below boot size = ${bootBytes}`,
    `desired_ram is ${wantedBytes}: give at least ${bootBytes}`,
  );

/** In the words that clients know, as are those below. */
const unfit = (why: string, remedy: string): VmmError =>
  new VmmError(
    'invalid-config',
    'Memory manager error',
    [
      'Failed to virtio-mem resize',
      'Resize invalid argument',
      `Failed to update virtio configuration: ResizeError(${why})`,
      remedy,
    ].reduceRight<Error | undefined>((cause, text) => new Error(text, { cause }), undefined),
  );

export const refused = (text: string, remedy: string): VmmError =>
  new VmmError(
    'invalid-config',
    'Memory manager error',
    new Error(text, { cause: new Error(remedy) }),
  );
