/**
 * What a virtio-iommu keeps: which endpoints there are, what domain each is attached to, and what
 * is mapped there. VIRTIO 1.2 §5.13.6, each request as a method that returns the status of the
 * answer, or a promise of it where somebody is still at work on what is taken away.
 */
import { strict as assert } from 'node:assert';
import type { Later, Native } from '../../native.ts';
import type {
  DmaSpace,
  IoDomain,
  IoDomains,
  IovaMapping,
  IovaRange,
  MappingFollower,
  Unmapped,
} from '../../native-iommu.ts';

/** How a request went. */
export const STATUS = {
  ok: 0,
  unsupported: 2,
  deviceError: 3,
  invalid: 4,
  noEntry: 6,
  fault: 7,
  noMemory: 8,
} as const;
/** One of these, or what the core said (`native/memory/io_domain.h`). */
export type Status = number;
type Answer = Later<Status>;

/** Of an error of the host: a follower that cannot have a mapping. */
const STATUS_OF_CODE: Readonly<Record<string, Status>> = {
  EEXIST: STATUS.invalid,
  EINVAL: STATUS.invalid,
  EFAULT: STATUS.fault,
  ENOMEM: STATUS.noMemory,
  ENOSPC: STATUS.noMemory,
};

// Flags of ATTACH and MAP.
const ATTACH_BYPASS = 1;
const MAP_READ = 1;
const MAP_WRITE = 2;

const ADDRESS_END = 1n << 64n;

/** Where devices write their interrupts: never translated, so never mapped. */
export const MSI_RANGE = { first: 0xfee0_0000n, last: 0xfeef_ffffn } as const;

/** Of all domains together; Linux has one a page that is under way. */
const MAPPINGS_MAX = 2 ** 17;

/** A device behind the IOMMU: its queues look addresses up, or somebody follows the mappings. */
export interface IommuEndpoint {
  readonly space?: DmaSpace | undefined;
  /** Has whoever serves its queues look at the space. */
  kick?(): void;
  readonly follower?: MappingFollower | undefined;
}

interface Endpoint extends IommuEndpoint {
  domain: Domain | undefined;
  /** Its device is no more. */
  isGone: boolean;
}

interface Domain {
  readonly id: number;
  /** Undefined if its endpoints go by the addresses of guest RAM. */
  readonly mappings: IoDomain | undefined;
  readonly endpoints: Set<Endpoint>;
}

/** How a request goes on. */
interface Step {
  /** Followers know of it, or have refused it. */
  told: Answer;
  /** Somebody is still at work by what was before. */
  inUse?: Promise<void> | undefined;
}

export interface MapRequest {
  domain: number;
  /** I/O virtual addresses, both ends included. */
  first: bigint;
  last: bigint;
  gpa: bigint;
  flags: number;
}

export class IommuDomains {
  /** Of the I/O virtual addresses that can be mapped. */
  readonly last: bigint;
  /** Those whose mappings nobody follows: vCPUs may map there. */
  readonly unfollowed: IoDomains;
  readonly #native: Pick<Native, 'IoDomain'>;
  readonly #endpoints = new Map<number, Endpoint>();
  readonly #domains = new Map<number, Domain>();
  #isBypassed = true;
  /** Settles when followers have heard of all that came so far; undefined if they have. */
  #turn: Promise<unknown> | undefined;

  /** @param addressBits of I/O virtual addresses, 12 to 64. */
  constructor(
    native: Pick<Native, 'IoDomain' | 'IoDomains'>,
    { addressBits, mappingsMax = MAPPINGS_MAX }: { addressBits: number; mappingsMax?: number },
  ) {
    this.#native = native;
    this.last = (1n << BigInt(addressBits)) - 1n;
    this.unfollowed = new native.IoDomains({
      ...{ last: this.last, mappingsMax },
      reservedFirst: MSI_RANGE.first,
      reservedLast: MSI_RANGE.last,
    });
  }

  /** Whether endpoints without a domain reach all of guest RAM, or none: firmware has no driver. */
  get isBypassed(): boolean {
    return this.#isBypassed;
  }

  set isBypassed(isBypassed: boolean) {
    this.#isBypassed = isBypassed;
    for (const endpoint of this.#endpoints.values())
      void this.#inTurn(() => (endpoint.domain ? DONE : this.#go(endpoint)));
  }

  /** Ids of those that can be attached. */
  get endpoints(): IterableIterator<number> {
    return this.#endpoints.keys();
  }

  hasEndpoint(id: number): boolean {
    return this.#endpoints.has(id);
  }

  /** Where nothing can be mapped for an endpoint, beside where interrupts are written. */
  reservedOf(id: number): IovaRange[] {
    const reserved = this.#endpoints.get(id)?.follower?.reserved ?? [];
    return reserved.filter(({ first, last }) => first < MSI_RANGE.first || last > MSI_RANGE.last);
  }

  /** Not `ok`, if it cannot reach what it is to reach at first; it is there all the same. */
  addEndpoint(id: number, endpoint: IommuEndpoint): Later<Status> {
    assert(!this.#endpoints.has(id), `endpoint ${id} is there twice`);
    const { space, follower } = endpoint;
    const kick = () => endpoint.kick?.();
    const added = { space, follower, kick, domain: undefined, isGone: false };
    this.#endpoints.set(id, added);
    return this.#inTurn(() => this.#go(added));
  }

  /**
   * The device is about to be no more: what it still does ends as it began, and nothing begins.
   * Whoever follows mappings for it lets go of all by itself.
   */
  removeEndpoint(id: number): void {
    const endpoint = this.#endpoints.get(id);
    if (!endpoint) return;
    this.#endpoints.delete(id);
    endpoint.isGone = true;
    void endpoint.space?.attach(undefined, false);
    for (const domain of this.#domains.values())
      if (domain.endpoints.has(endpoint)) this.#leave(domain, endpoint);
  }

  attach(domain: number, endpoint: number, flags: number, canBypass: boolean): Answer {
    return this.#inTurn(() => this.#attach(domain, endpoint, flags, canBypass));
  }

  detach(domain: number, endpoint: number): Answer {
    return this.#inTurn(() => {
      const attached = this.#endpoints.get(endpoint);
      if (!attached) return { told: STATUS.noEntry };
      if (attached.domain?.id !== domain) return { told: STATUS.invalid };
      return this.#go(attached);
    });
  }

  map(request: MapRequest): Answer {
    return this.#inTurn(() => this.#map(request));
  }

  unmap(domain: number, first: bigint, last: bigint): Answer {
    return this.#inTurn(() => {
      const found = this.#domains.get(domain);
      if (!found) return { told: STATUS.noEntry };
      if (!found.mappings) return { told: STATUS.invalid };
      return this.#unmap(found, found.mappings, first, last);
    });
  }

  /** No endpoint is attached any more. Resolves when nothing goes by what was mapped. */
  async reset(): Promise<void> {
    const all = [...this.#endpoints.values()];
    await Promise.all(all.map((endpoint) => this.#inTurn(() => this.#go(endpoint))));
    await this.settled();
  }

  /** Resolves when followers have heard of all. */
  async settled(): Promise<void> {
    while (this.#turn) await this.#turn;
  }

  /** All devices are about to be no more. */
  close(): void {
    for (const id of [...this.#endpoints.keys()]) this.removeEndpoint(id);
  }

  /**
   * One request after another, as far as followers are to hear of it: at once, or when they have
   * heard of those before. Who waits for somebody at work holds up nobody.
   */
  #inTurn(work: () => Step): Answer {
    if (this.#turn) {
      const step = this.#turn.then(work);
      this.#hold(step.then(({ told }) => told));
      return step.then(answer);
    }
    const step = work();
    if (typeof step.told !== 'number') this.#hold(step.told);
    return answer(step);
  }

  #hold(told: Promise<Status>): void {
    this.#turn = told;
    void told.then(() => {
      if (this.#turn === told) this.#turn = undefined;
    });
  }

  #attach(domain: number, endpoint: number, flags: number, canBypass: boolean): Step {
    if ((flags & ~(canBypass ? ATTACH_BYPASS : 0)) !== 0) return { told: STATUS.invalid };
    const attached = this.#endpoints.get(endpoint);
    if (!attached) return { told: STATUS.noEntry };
    const found = this.#domains.get(domain);
    const isBypass = (flags & ATTACH_BYPASS) !== 0;
    if (found && isBypass === (found.mappings !== undefined)) return { told: STATUS.invalid };
    if (found && attached.domain === found) return DONE;
    return this.#go(attached, found ?? this.#make(domain, isBypass));
  }

  #make(id: number, isBypass: boolean): Domain {
    const mappings = isBypass ? undefined : new this.#native.IoDomain(this.unfollowed);
    const made = { id, mappings, endpoints: new Set<Endpoint>() };
    this.#domains.set(id, made);
    if (mappings) this.unfollowed.put(id, mappings);
    return made;
  }

  #map({ domain, first, last, gpa, flags }: MapRequest): Step {
    const found = this.#domains.get(domain);
    if (!found) return { told: STATUS.noEntry };
    const told = found.mappings?.map(first, last, gpa, flags) ?? STATUS.invalid;
    if (told !== STATUS.ok || followersOf(found).length === 0) return { told };
    const [isReadable, isWritable] = [(flags & MAP_READ) !== 0, (flags & MAP_WRITE) !== 0];
    return { told: this.#tellMapped(found, { first, last, gpa, isReadable, isWritable }) };
  }

  /** All who follow the domain have the mapping, or nobody. */
  async #tellMapped(domain: Domain, mapping: IovaMapping): Promise<Status> {
    const { first, last } = mapping;
    const told: MappingFollower[] = [];
    try {
      for (const follower of followersOf(domain)) {
        await follower.mapped(mapping);
        told.push(follower);
      }
      return STATUS.ok;
    } catch (error) {
      await tellUnmapped(told, first, last);
      if (domain.mappings) this.#takeOut(domain, domain.mappings, first, last);
      return STATUS_OF_CODE[(error as NodeJS.ErrnoException).code ?? ''] ?? STATUS.deviceError;
    }
  }

  #unmap(domain: Domain, mappings: IoDomain, first: bigint, last: bigint): Step {
    const { status, count, inUse } = this.#takeOut(domain, mappings, first, last);
    const followers = count > 0 ? followersOf(domain) : [];
    return { told: followers.length > 0 ? tellUnmapped(followers, first, last) : status, inUse };
  }

  /** Nobody finds these mappings any more, and who is at work by them is told. */
  #takeOut(domain: Domain, mappings: IoDomain, first: bigint, last: bigint): Unmapped {
    const unmapped = mappings.unmap(first, last);
    if (unmapped.inUse)
      for (const endpoint of domain.endpoints) {
        endpoint.space?.moveOn();
        endpoint.kick?.();
      }
    return unmapped;
  }

  /**
   * Attaches it to a domain, or to none. A domain that no endpoint is left in ceases to exist, with
   * all that is mapped there.
   */
  #go(endpoint: Endpoint, to?: Domain): Step {
    const { domain: from, space, follower, isGone } = endpoint;
    if (isGone) return DONE;
    endpoint.domain = to;
    to?.endpoints.add(endpoint);
    if (to && follower) this.unfollowed.remove(to.id); // before it looks at what is mapped
    const inUse = space?.attach(to?.mappings, this.#isRam(to));
    if (inUse) endpoint.kick?.();
    if (!follower) {
      if (from) this.#leave(from, endpoint);
      return { told: STATUS.ok, inUse };
    }
    return { told: this.#tellAttached(endpoint, from), inUse };
  }

  /** One that cannot reach what it is to reach stays where it was, or reaches nothing. */
  async #tellAttached(endpoint: Endpoint, from: Domain | undefined): Promise<Status> {
    const { domain: to } = endpoint;
    const isDone = await this.#follows(endpoint);
    if (endpoint.isGone) return STATUS.noEntry;
    if (isDone || !to) {
      if (from) this.#leave(from, endpoint);
      return isDone ? STATUS.ok : STATUS.deviceError;
    }
    endpoint.domain = from;
    void endpoint.space?.attach(from?.mappings, this.#isRam(from));
    this.#leave(to, endpoint);
    await this.#follows(endpoint);
    return STATUS.unsupported;
  }

  async #follows({ domain, follower }: Endpoint): Promise<boolean> {
    try {
      await follower?.attached(domain?.mappings ?? (this.#isRam(domain) ? 'ram' : 'nothing'));
      return true;
    } catch {
      return false;
    }
  }

  /** Whether endpoints there, or without a domain, go by the addresses of guest RAM. */
  #isRam(domain: Domain | undefined): boolean {
    return domain ? !domain.mappings : this.#isBypassed;
  }

  #leave(domain: Domain, endpoint: Endpoint): void {
    const { id, mappings, endpoints } = domain;
    endpoints.delete(endpoint);
    if (endpoints.size > 0) {
      if (mappings && followersOf(domain).length === 0) this.unfollowed.put(id, mappings);
      return;
    }
    this.#domains.delete(id);
    this.unfollowed.remove(id);
    // Else they would lie there until V8 looks.
    if (mappings) this.#takeOut(domain, mappings, 0n, ADDRESS_END - 1n);
  }
}

/** Nothing is left to do. */
const DONE: Step = { told: STATUS.ok };

const followersOf = ({ endpoints }: Domain): MappingFollower[] =>
  [...endpoints].flatMap(({ follower }) => follower ?? []);

async function tellUnmapped(
  followers: readonly MappingFollower[],
  first: bigint,
  last: bigint,
): Promise<Status> {
  const told = followers.map(async (follower) => follower.unmapped(first, last));
  const isDone = (await Promise.allSettled(told)).every(({ status }) => status === 'fulfilled');
  return isDone ? STATUS.ok : STATUS.deviceError;
}

function answer({ told, inUse }: Step): Answer {
  if (!inUse) return told;
  return inUse.then(() => told);
}
