/** The guest's RAM as a whole: what it boots with, and what is plugged while it runs. */
import { VmmError } from '../errors.ts';
import type { GuestMemory, Vm } from '../native.ts';
import { type MemoryConfig, pageBytes, ramBytes } from './config/memory.ts';
import { systemHost } from './host.ts';
import { type DeviceArea, type GpaRange, MEMORY_SECTION_BYTES, ramRegions } from './layout.ts';
import { addRam } from './memory.ts';

export class Ram {
  readonly #memory: GuestMemory;
  readonly #config: MemoryConfig;
  readonly #window: GpaRange;
  readonly #bootBytes: number;
  #pluggedBytes = 0;

  private constructor(memory: GuestMemory, config: MemoryConfig, area: DeviceArea) {
    this.#memory = memory;
    this.#config = config;
    this.#window = area.pluggable;
    this.#bootBytes = ramBytes(config);
  }

  /** RAM as a boot has it. @throws VmmError 'host' if the host has not got it. */
  static async add(memory: GuestMemory, config: MemoryConfig, area: DeviceArea): Promise<Ram> {
    await addRam(memory, config, ramRegions(ramBytes(config)));
    return new Ram(memory, config, area);
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
    if (wantedBytes < boot)
      throw refused(
        `Invalid resize request: desired_size = ${wantedBytes} below boot size = ${boot}`,
        `${wanted}: give at least ${boot}`,
      );
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

  /** Gives the guest what is missing. @throws VmmError 'host', and then nothing has changed. */
  async plug(range: GpaRange, vm: Pick<Vm, 'mapMemory'>): Promise<void> {
    await addRam(this.#memory, this.#config, [range]);
    try {
      vm.mapMemory();
    } catch (cause) {
      await this.#memory.removeRegion(range.gpa);
      throw new VmmError('host', `The host cannot map ${range.sizeBytes} bytes more`, cause);
    }
    this.#pluggedBytes += range.sizeBytes;
  }
}

/** In the words that clients know. */
export const refused = (text: string, remedy: string): VmmError =>
  new VmmError(
    'invalid-config',
    'Memory manager error',
    new Error(text, { cause: new Error(remedy) }),
  );
