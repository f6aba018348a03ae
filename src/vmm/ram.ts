/** The guest's RAM as a whole: what it boots with, and what is plugged while it runs. */
import { strict as assert } from 'node:assert';
import { alignDown, alignUp, hex } from '../bytes.ts';
import type { PluggableBlocks } from '../devices/device.ts';
import { VmmError } from '../errors.ts';
import type { GuestMemory, Vm } from '../native.ts';
import {
  blockBytes,
  hasBlocks,
  type MemoryConfig,
  pageBytes,
  type RamZone,
  ramZones,
  refused,
} from './config/memory.ts';
import { systemHost } from './host.ts';
import { type DeviceArea, type GpaRange, MEMORY_SECTION_BYTES, zoneRegions } from './layout.ts';
import { addRam, isDirectory } from './memory.ts';

/** A zone of the config, and where it may grow. */
interface Zone {
  config: RamZone;
  window: GpaRange;
  /** Of RAM that is plugged by the block. */
  blocks: PluggableBlocks | undefined;
}

export class Ram {
  readonly #memory: GuestMemory;
  readonly #zones: readonly Zone[];
  readonly #bootBytes: number;
  #pluggedBytes = 0;

  private constructor(memory: GuestMemory, zones: readonly Zone[]) {
    this.#memory = memory;
    this.#zones = zones;
    this.#bootBytes = zones.reduce((sum, { config }) => sum + config.size, 0);
  }

  /**
   * RAM as a boot has it.
   * @param nodes of the guest, by the zones that are in one.
   * @throws VmmError 'host' if the host has not got it.
   */
  static async add(
    memory: GuestMemory,
    config: MemoryConfig,
    area: DeviceArea,
    nodes: ReadonlyMap<string, number>,
  ): Promise<Ram> {
    const zones = ramZones(config);
    const regions = zoneRegions(zones.map(({ size }) => size));
    const ram = new Ram(
      memory,
      zones.map((zone, i) => {
        const window = area.pluggable[i] ?? { gpa: 0, sizeBytes: 0 };
        return { config: zone, window, blocks: newBlocks(zone, window, nodes.get(zone.id)) };
      }),
    );
    for (const [i, zone] of zones.entries()) await addRam(memory, zone, regions[i] ?? []);
    for (const zone of ram.#zones) await ram.#addUsable(zone, zone.blocks?.requestedBytes ?? 0);
    return ram;
  }

  get sizeBytes(): number {
    return this.#bootBytes + this.#pluggedBytes;
  }

  /** Where blocks may be plugged by virtio-mem, and how much of it is RAM; by zone. */
  get blocks(): ReadonlyMap<string, PluggableBlocks> {
    const entries = this.#zones.map(({ config, blocks }) => [config.id, blocks] as const);
    return new Map(entries.flatMap(([id, blocks]) => (blocks ? [[id, blocks]] : [])));
  }

  /**
   * What has to be plugged for so much RAM; undefined if nothing: less than there is comes with the
   * next boot.
   * @throws VmmError 'invalid-config'.
   */
  missing(wantedBytes: number): GpaRange | undefined {
    const { config, window } = this.#zone();
    const step = Math.max(MEMORY_SECTION_BYTES, pageBytes(config));
    const wanted = `desired_ram is ${wantedBytes}`;
    const boot = this.#bootBytes;
    if (wantedBytes < boot) throw belowBoot(wantedBytes, boot);
    if ((wantedBytes - boot) % step !== 0)
      throw refused(
        'The requested hotplug memory addition is not a valid size',
        `${wanted}: give ${boot} and a multiple of ${step} more`,
      );
    if (wantedBytes <= this.sizeBytes) return undefined;
    if (wantedBytes - boot > window.sizeBytes)
      throw refused(
        'Not enough space in the hotplug RAM region',
        `${wanted}: give at most ${boot + window.sizeBytes}, ` +
          'or create the VM with more memory.hotplug_size',
      );
    if (wantedBytes > systemHost.memoryBytes())
      throw refused(
        'More memory than the host has',
        `${wanted}: give at most ${systemHost.memoryBytes()}`,
      );
    const gpa = window.gpa + this.#pluggedBytes;
    return { gpa, sizeBytes: wantedBytes - this.sizeBytes };
  }

  /**
   * What of the blocks of a zone makes so much RAM of it; undefined if it has none.
   * @param id of the zone; without it RAM is one.
   * @throws VmmError 'invalid-config'.
   */
  requested(wantedBytes: number, id?: string): number | undefined {
    const { config, blocks } = this.#zone(id);
    if (!blocks) return undefined;
    const { blockBytes: step, regionBytes } = blocks;
    const wanted = `desired_ram is ${wantedBytes}`;
    const boot = config.size;
    const at = id === undefined ? 'memory' : `of zone ${id}`;
    if (wantedBytes < boot) throw belowBoot(wantedBytes, boot);
    const bytes = wantedBytes - boot;
    if (bytes > regionBytes)
      throw unfit(
        `new size ${hex(bytes)} is bigger than region_size ${hex(regionBytes)}`,
        `${wanted}: give at most ${boot + regionBytes}, or more hotplug_size ${at} at vm.create`,
      );
    if (bytes % step !== 0)
      throw unfit(
        `new size ${hex(bytes)} is not aligned on block_size ${hex(step)}`,
        `${wanted}: give ${boot} and a multiple of ${step} more`,
      );
    return bytes;
  }

  /**
   * Has the first `sizeBytes` of the blocks of a zone be RAM, or more.
   * @returns its id, how many are now, and whether those are more than before.
   * @throws VmmError 'host', and then nothing has changed.
   */
  async makeUsable(
    sizeBytes: number,
    vm: Pick<Vm, 'mapMemory'>,
    id?: string,
  ): Promise<{ id: string; sizeBytes: number; isMore: boolean }> {
    const zone = this.#zone(id);
    const before = zone.blocks?.usableBytes ?? 0;
    const gpa = await this.#addUsable(zone, sizeBytes);
    try {
      if (gpa !== undefined) await this.#map(gpa, vm);
    } catch (error) {
      if (zone.blocks) zone.blocks.usableBytes = before;
      throw error;
    }
    const usableBytes = zone.blocks?.usableBytes ?? 0;
    return { id: zone.config.id, sizeBytes: usableBytes, isMore: gpa !== undefined };
  }

  /** A quarter of the region at a time: regions of RAM are few, and a guest may touch all of it. */
  async #addUsable({ config, blocks }: Zone, sizeBytes: number): Promise<number | undefined> {
    if (!blocks || sizeBytes <= blocks.usableBytes) return undefined;
    const { gpa, regionBytes, blockBytes, usableBytes } = blocks;
    const step = alignUp(Math.max(MEMORY_SECTION_BYTES, regionBytes / 4), blockBytes);
    const wanted = Math.min(alignUp(sizeBytes, step), regionBytes);
    const range = { gpa: gpa + usableBytes, sizeBytes: wanted - usableBytes };
    await addRam(this.#memory, grown(config), [range]);
    blocks.usableBytes = wanted;
    return range.gpa;
  }

  /** Gives the guest what is missing. @throws VmmError 'host', and then nothing has changed. */
  async plug(range: GpaRange, vm: Pick<Vm, 'mapMemory'>): Promise<void> {
    await addRam(this.#memory, grown(this.#zone().config), [range]);
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

  /** The one of that id, or the first: zones that a config names grow by name. */
  #zone(id?: string): Zone {
    const zone = this.#zones.find(({ config }) => id === undefined || config.id === id);
    assert(zone, `there is no zone ${id}`);
    return zone;
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

/** Address and size follow from the window, whose start is a multiple of a block. */
function newBlocks(
  zone: RamZone,
  { gpa, sizeBytes }: GpaRange,
  node: number | undefined,
): PluggableBlocks | undefined {
  if (!hasBlocks(zone)) return undefined;
  const regionBytes = alignDown(sizeBytes, blockBytes(zone));
  return {
    ...{ gpa, regionBytes, plugged: new Uint8Array(regionBytes / blockBytes(zone)) },
    blockBytes: blockBytes(zone),
    usableBytes: 0,
    requestedBytes: zone.hotplugged_size ?? 0,
    ...(node !== undefined && { node }),
  };
}

/** A file that somebody gave has what a boot has of the zone, and no more. */
const grown = ({ file, ...zone }: RamZone): RamZone => ({
  ...zone,
  ...(file !== undefined && isDirectory(file) && { file }),
});
