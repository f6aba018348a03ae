/**
 * What a virtio-iommu keeps: which endpoints there are, what domain each is attached to, and what
 * is mapped there. VIRTIO 1.2 §5.13.6, each request as a method that returns the status of the
 * answer, or a promise of it where somebody is still at work on what is taken away.
 */
import { strict as assert } from 'node:assert';
import type { Native } from '../../native.ts';
import type { DmaSpace, IoDomain, IoDomains } from '../../native-iommu.ts';

/** How a request went. */
export const STATUS = {
  ok: 0,
  invalid: 4,
  noEntry: 6,
} as const;
/** One of these, or what the core said (`native/memory/io_domain.h`). */
export type Status = number;
type Answer = Status | Promise<Status>;

/** A flag of ATTACH. */
const ATTACH_BYPASS = 1;

const ADDRESS_END = 1n << 64n;

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
  /** Those with mappings, so that vCPUs find them, too. */
  readonly mapped: IoDomains;
  readonly #native: Pick<Native, 'IoDomain'>;
  readonly #endpoints = new Map<number, Endpoint>();
  readonly #domains = new Map<number, Domain>();
  #isBypassed = true;

  /** @param addressBits of I/O virtual addresses, 12 to 64. */
  constructor(
    native: Pick<Native, 'IoDomain' | 'IoDomains'>,
    { addressBits, mappingsMax = MAPPINGS_MAX }: { addressBits: number; mappingsMax?: number },
  ) {
    this.#native = native;
    this.last = (1n << BigInt(addressBits)) - 1n;
    this.mapped = new native.IoDomains({
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
    return answer(this.#go(attached, found ?? this.#make(domain, isBypass)));
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
    return found.mappings?.map(first, last, gpa, flags) ?? STATUS.invalid;
  }

  unmap(domain: number, first: bigint, last: bigint): Answer {
    const found = this.#domains.get(domain);
    if (!found) return STATUS.noEntry;
    if (!found.mappings) return STATUS.invalid;
    const { status, inUse } = found.mappings.unmap(first, last);
    if (!inUse) return status;
    for (const endpoint of found.endpoints) {
      endpoint.space.moveOn();
      endpoint.kick();
    }
    return answer(inUse);
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

  #make(id: number, isBypass: boolean): Domain {
    const mappings = isBypass ? undefined : new this.#native.IoDomain(this.mapped);
    const made = { id, mappings, endpoints: new Set<Endpoint>() };
    this.#domains.set(id, made);
    if (mappings) this.mapped.put(id, mappings);
    return made;
  }

  #leave(domain: Domain, endpoint: Endpoint): void {
    domain.endpoints.delete(endpoint);
    if (domain.endpoints.size > 0) return;
    this.#domains.delete(domain.id);
    this.mapped.remove(domain.id);
    domain.mappings?.unmap(0n, ADDRESS_END - 1n); // else they would lie there until V8 looks
  }
}

const answer = (inUse: Promise<void> | undefined): Answer =>
  inUse ? inUse.then(() => STATUS.ok) : STATUS.ok;
