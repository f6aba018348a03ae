/** What is behind an IOMMU, as the IOMMU sees it. */
import type { IommuEndpoint } from '../../../src/devices/virtio/iommu-domains.ts';
import type {
  DmaSpace,
  IoDomain,
  IovaMapping,
  IovaRange,
  MappingFollower,
} from '../../../src/native-iommu.ts';

export class FakeEndpoint implements IommuEndpoint {
  /** Where it goes: by a domain's mappings, by RAM, or nowhere. */
  goes: IoDomain | 'by RAM' | 'nowhere' = 'nowhere';
  kickCount = 0;
  /** How often its queues were to let go of what was unmapped. */
  moveCount = 0;
  /** If set, something is under way that only ends with it. */
  underWay: Promise<void> | undefined;
  readonly space: DmaSpace = {
    attach: (domain, isBypassed) => {
      this.goes = domain ?? (isBypassed ? 'by RAM' : 'nowhere');
      return this.underWay;
    },
    moveOn: () => {
      this.moveCount++;
    },
  };

  kick(): void {
    this.kickCount++;
  }
}

/** Somebody with mappings of its own, who takes a turn of the event loop for all it is told. */
export class FakeFollower implements MappingFollower, IommuEndpoint {
  readonly follower = this;
  reserved: IovaRange[] = [];
  /** What it reaches. */
  reach: IovaMapping[] | 'ram' = [];
  /** What it cannot reach, as a system call says it. */
  refuses: (mapping: IovaMapping | 'ram') => string | undefined = () => undefined;
  readonly log: string[] = [];
  #isBusy = false;

  async attached(to: IoDomain | 'ram' | 'nothing'): Promise<void> {
    this.reach = [];
    this.log.push(typeof to === 'string' ? to : 'domain');
    await this.#work();
    if (to === 'nothing') return;
    const all = to === 'ram' ? (['ram'] as const) : to.mappings();
    for (const one of all) this.#check(one);
    this.reach = to === 'ram' ? to : to.mappings();
  }

  async mapped(mapping: IovaMapping): Promise<void> {
    this.log.push('map');
    await this.#work();
    this.#check(mapping);
    if (this.reach === 'ram' || this.reach.some(({ first }) => first === mapping.first))
      throw new Error('It has that already');
    this.reach.push(mapping);
  }

  async unmapped(first: bigint, last: bigint): Promise<void> {
    this.log.push('unmap');
    await this.#work();
    if (this.reach === 'ram') throw new Error('It reaches all memory');
    this.reach = this.reach.filter((one) => one.first < first || one.last > last);
  }

  /** The addresses of what it reaches, by pages. */
  get pages(): number[] {
    if (this.reach === 'ram') return [-1];
    return this.reach.map(({ first }) => Number(first >> 12n)).sort((a, b) => a - b);
  }

  #check(mapping: IovaMapping | 'ram'): void {
    const code = this.refuses(mapping);
    if (code) throw Object.assign(new Error(code), { code });
  }

  async #work(): Promise<void> {
    if (this.#isBusy) throw new Error('It is told two things at once');
    this.#isBusy = true;
    await new Promise((resolve) => setImmediate(resolve));
    this.#isBusy = false;
  }
}
