/**
 * What a virtio-iommu keeps: which endpoints there are, what domain each is attached to, and what
 * is mapped there. VIRTIO 1.2 §5.13.6, each request as a method that returns the status of the
 * answer, or a promise of it where somebody is still at work on what is taken away.
 */
import { strict as assert } from 'node:assert';
import type { Native } from '../../native.ts';
import type { DmaSpace, IoDomain } from '../../native-iommu.ts';

/** How a request went. */
export const STATUS = {
  ok: 0,
  invalid: 4,
  range: 5,
  noEntry: 6,
  noMemory: 8,
} as const;
export type Status = (typeof STATUS)[keyof typeof STATUS];
type Answer = Status | Promise<Status>;

// Flags of ATTACH and MAP.
const ATTACH_BYPASS = 1;
const MAP_READ = 1;
const MAP_WRITE = 2;

/** The smallest page that is mapped. */
const PAGE_BYTES = 4096n;
const ADDRESS_END = 1n << 64n;
/** A physical address of x86 has at most so many bits. */
const GPA_END = 1n << 52n;

/** Where devices write their interrupts: never translated, so never mapped. */
export const MSI_RANGE = { first: 0xfee0_0000n, last: 0xfeef_ffffn } as const;

/** Of all domains together; Linux has one a page that is under way. */
const MAPPINGS_MAX = 2 ** 17;

/** A device behind the IOMMU. */
export interface IommuEndpoint {
  readonly space: DmaSpace;
  /** Has whoever serves its queues look at the space. */
  kick(): void;
}

interface Endpoint extends IommuEndpoint {
  domain: Domain | undefined;
}

interface Domain {
  readonly id: number;
  /** Undefined if its endpoints go by the addresses of guest RAM. */
  readonly mappings: IoDomain | undefined;
  readonly endpoints: Set<Endpoint>;
  mappingCount: number;
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
  readonly #native: Pick<Native, 'IoDomain'>;
  readonly #mappingsMax: number;
  readonly #endpoints = new Map<number, Endpoint>();
  readonly #domains = new Map<number, Domain>();
  #mappingCount = 0;
  #isBypassed = true;

  /** @param addressBits of I/O virtual addresses, 12 to 64. */
  constructor(
    native: Pick<Native, 'IoDomain'>,
    { addressBits, mappingsMax = MAPPINGS_MAX }: { addressBits: number; mappingsMax?: number },
  ) {
    this.#native = native;
    this.#mappingsMax = mappingsMax;
    this.last = (1n << BigInt(addressBits)) - 1n;
  }

  /** Whether endpoints without a domain reach all of guest RAM, or none: firmware has no driver. */
  get isBypassed(): boolean {
    return this.#isBypassed;
  }

  set isBypassed(isBypassed: boolean) {
    this.#isBypassed = isBypassed;
    for (const endpoint of this.#endpoints.values()) if (!endpoint.domain) void this.#go(endpoint);
  }

  /** Ids of those that can be attached. */
  get endpoints(): IterableIterator<number> {
    return this.#endpoints.keys();
  }

  hasEndpoint(id: number): boolean {
    return this.#endpoints.has(id);
  }

  addEndpoint(id: number, endpoint: IommuEndpoint): void {
    assert(!this.#endpoints.has(id), `endpoint ${id} is there twice`);
    const added = { space: endpoint.space, kick: () => endpoint.kick(), domain: undefined };
    this.#endpoints.set(id, added);
    void this.#go(added);
  }

  /** The device is about to be no more: what it still does ends as it began, and nothing begins. */
  removeEndpoint(id: number): void {
    const endpoint = this.#endpoints.get(id);
    if (!endpoint) return;
    this.#endpoints.delete(id);
    void endpoint.space.attach(undefined, false);
    if (endpoint.domain) this.#leave(endpoint.domain, endpoint);
  }

  attach(domain: number, endpoint: number, flags: number, canBypass: boolean): Answer {
    if ((flags & ~(canBypass ? ATTACH_BYPASS : 0)) !== 0) return STATUS.invalid;
    const attached = this.#endpoints.get(endpoint);
    if (!attached) return STATUS.noEntry;
    const found = this.#domains.get(domain);
    const isBypass = (flags & ATTACH_BYPASS) !== 0;
    if (found && isBypass === (found.mappings !== undefined)) return STATUS.invalid;
    if (found && attached.domain === found) return STATUS.ok;
    const joined = found ?? {
      id: domain,
      mappings: isBypass ? undefined : new this.#native.IoDomain(),
      endpoints: new Set<Endpoint>(),
      mappingCount: 0,
    };
    this.#domains.set(domain, joined);
    return answer(this.#go(attached, joined));
  }

  detach(domain: number, endpoint: number): Answer {
    const attached = this.#endpoints.get(endpoint);
    if (!attached) return STATUS.noEntry;
    if (attached.domain === undefined || attached.domain.id !== domain) return STATUS.invalid;
    return answer(this.#go(attached));
  }

  map({ domain, first, last, gpa, flags }: MapRequest): Status {
    const found = this.#domains.get(domain);
    if (!found) return STATUS.noEntry;
    if (!found.mappings || (flags & ~(MAP_READ | MAP_WRITE)) !== 0) return STATUS.invalid;
    if (![first, last + 1n, gpa].every((address) => address % PAGE_BYTES === 0n))
      return STATUS.range;
    if (first > last || last > this.last || gpa + (last - first) >= GPA_END) return STATUS.range;
    if (first <= MSI_RANGE.last && last >= MSI_RANGE.first) return STATUS.invalid;
    if (this.#mappingCount >= this.#mappingsMax) return STATUS.noMemory;
    const [isReadable, isWritable] = [(flags & MAP_READ) !== 0, (flags & MAP_WRITE) !== 0];
    if (!found.mappings.map(first, last, gpa, isReadable, isWritable)) return STATUS.invalid;
    found.mappingCount++;
    this.#mappingCount++;
    return STATUS.ok;
  }

  unmap(domain: number, first: bigint, last: bigint): Answer {
    const found = this.#domains.get(domain);
    if (!found) return STATUS.noEntry;
    if (!found.mappings) return STATUS.invalid;
    if (first > last) return STATUS.range;
    const unmapped = found.mappings.unmap(first, last);
    if (!unmapped) return STATUS.range;
    found.mappingCount -= unmapped.count;
    this.#mappingCount -= unmapped.count;
    if (unmapped.inUse)
      for (const endpoint of found.endpoints) {
        endpoint.space.moveOn();
        endpoint.kick();
      }
    return answer(unmapped.inUse);
  }

  /** No endpoint is attached any more. Resolves when nothing goes by what was mapped. */
  async reset(): Promise<void> {
    await Promise.all([...this.#endpoints.values()].map((endpoint) => this.#go(endpoint)));
  }

  /**
   * Attaches it to a domain, or to none. A domain that no endpoint is left in ceases to exist, with
   * all that is mapped there.
   */
  #go(endpoint: Endpoint, to?: Domain): Promise<void> | undefined {
    const { domain: from } = endpoint;
    endpoint.domain = to;
    to?.endpoints.add(endpoint);
    const inUse = endpoint.space.attach(to?.mappings, to ? !to.mappings : this.#isBypassed);
    if (inUse) endpoint.kick();
    if (from) this.#leave(from, endpoint);
    return inUse;
  }

  #leave(domain: Domain, endpoint: Endpoint): void {
    domain.endpoints.delete(endpoint);
    if (domain.endpoints.size > 0) return;
    this.#domains.delete(domain.id);
    this.#mappingCount -= domain.mappingCount;
    domain.mappings?.unmap(0n, ADDRESS_END - 1n); // else they would lie there until V8 looks
  }
}

const answer = (inUse: Promise<void> | undefined): Answer =>
  inUse ? inUse.then(() => STATUS.ok) : STATUS.ok;
