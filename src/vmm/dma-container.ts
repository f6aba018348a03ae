/**
 * What some devices of the host's own reach of the guest's memory: all of it or, behind the
 * virtio-iommu, what its driver has mapped for them.
 */
import type { PluggableBlocks } from '../devices/device.ts';
import type { GuestMemory } from '../native.ts';
import type { IoDomain, IovaMapping, IovaRange, MappingFollower } from '../native-iommu.ts';
import type { IommuLimits, VfioContainer } from '../native-vfio.ts';

const ADDRESS_MAX = 2n ** 64n - 1n;
/** Of what the virtio-iommu maps. */
const PAGE_BYTES = 4096n;

/** Why a device cannot be behind the virtio-iommu, as if a system call had said so. */
export class OwnContainerError extends Error {
  readonly code: string;
  readonly syscall = 'virtual IOMMU';

  constructor(code: string, message: string) {
    super(message);
    this.code = code;
  }
}

export interface DmaContainerOptions {
  memory: GuestMemory;
  /** Memory that the guest plugs by the block. */
  blocks: readonly PluggableBlocks[];
  onWarning(message: string): void;
}

export class DmaContainer implements MappingFollower {
  readonly core: VfioContainer;
  readonly #options: DmaContainerOptions;
  #reserved: readonly IovaRange[] = [];
  #turn: Promise<void> = Promise.resolve();
  #isClosed = false;

  constructor(core: VfioContainer, options: DmaContainerOptions) {
    this.core = core;
    this.#options = options;
  }

  get reserved(): readonly IovaRange[] {
    return this.#reserved;
  }

  /**
   * Once a device is open: finds out what can be mapped for it.
   * @throws OwnContainerError if pages of the size that guests map cannot be.
   */
  findLimits(): void {
    const { ranges, pageSizes } = this.core.limits();
    if (pageSizes !== 0n && (pageSizes & -pageSizes) > PAGE_BYTES)
      throw new OwnContainerError('ENOTSUP', `it maps no pages of ${PAGE_BYTES} bytes`);
    this.#reserved = gapsOf(ranges);
  }

  /**
   * Resolves when devices reach memory as it is now, and no other; with how many bytes of files
   * the host keeps from them. One at a time, and each as memory is when it begins: the last one is
   * right.
   */
  follow(): Promise<number> {
    const { memory, blocks } = this.#options;
    const done = this.#turn.then(async () => {
      if (this.#isClosed) return 0;
      const usable = blocks.map(({ gpa, blockBytes, usableBytes, plugged }) => {
        return { gpa, blockBytes, plugged: plugged.subarray(0, usableBytes / blockBytes) };
      });
      await this.core.follow(memory, usable);
      return this.core.leftOutBytes();
    });
    this.#turn = done.then(
      () => {},
      () => {},
    );
    return done;
  }

  async attached(to: IoDomain | 'ram' | 'nothing'): Promise<void> {
    if (this.#isClosed) return;
    try {
      await this.core.reach(to);
    } catch (error) {
      const what = to === 'ram' ? 'all memory' : 'what the guest maps for it';
      const reason = (error as Error).message;
      this.#options.onWarning(`A device passed through cannot reach ${what}: ${reason}`);
      throw error;
    }
  }

  mapped(mapping: IovaMapping): Promise<void> | undefined {
    return this.#isClosed ? undefined : this.core.map(mapping);
  }

  unmapped(first: bigint, last: bigint): Promise<void> | undefined {
    return this.#isClosed ? undefined : this.core.unmap(first, last);
  }

  /** Once its devices are closed: nothing is mapped then. */
  close(): void {
    this.#isClosed = true;
    this.core.close();
  }
}

/** What is in none of the ranges. */
function gapsOf(ranges: IommuLimits['ranges']): IovaRange[] {
  const gaps: IovaRange[] = [];
  let next = 0n;
  for (const { first, last } of ranges) {
    if (first > next) gaps.push({ first: next, last: first - 1n });
    next = last + 1n;
  }
  if (next <= ADDRESS_MAX) gaps.push({ first: next, last: ADDRESS_MAX });
  return gaps;
}
