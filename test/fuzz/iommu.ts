/**
 * Fuzzes the requests of virtio-iommu: a driver that attaches, maps, unmaps and probes, mostly what
 * there is, with endpoints that are at work when they are sent elsewhere, that come and go, and
 * with resets; and bytes that are no request at all.
 *
 * Whatever it does, each request is answered once, and as a second reading of VIRTIO 1.2 §5.13.6
 * has it; what sends an endpoint elsewhere that is at work is answered when it is through, and not
 * before; each endpoint goes where the second reading says. One follows the mappings, and cannot
 * reach one place: it has what its domain has, and no domain has what it cannot have.
 */
import { Iommu } from '../../src/devices/virtio/iommu.ts';
import { IommuDomains } from '../../src/devices/virtio/iommu-domains.ts';
import { native } from '../../src/native.ts';
import { attach, detach, map, probe, unmap } from '../support/iommu-requests.ts';
import { Driver } from '../unit/support/driver.ts';
import type { FakeChain } from '../unit/support/fake-host.ts';
import { FakeEndpoint, FakeFollower } from '../unit/support/fake-iommu.ts';
import { random } from './random.ts';

type Below = (n: number) => number;

const STEPS_MAX = 80;
const MAPPINGS_MAX = 3;
const ENDPOINTS = [8, 16, 0x1_0008];
const FOLLOWER = 24;
const PAGE = 4096n;
/** Where the follower cannot reach. */
const FORBIDDEN_GPA = 5n * PAGE;
const TOP = 2n ** 64n - 1n;
const [MSI_FIRST, MSI_LAST] = [0xfee0_0000n, 0xfeef_ffffn];

const [OK, UNSUPPORTED, INVALID, RANGE, NO_ENTRY, FAULT, NO_MEMORY] = [0, 2, 4, 5, 6, 7, 8];

function check(holds: boolean, message: string): asserts holds {
  if (!holds) throw new Error(message);
}

interface ModelDomain {
  isBypass: boolean;
  endpoints: Set<number>;
  mappings: { first: bigint; last: bigint; gpa: bigint }[];
}

/** The second reading. */
class Model {
  readonly endpoints = new Set([...ENDPOINTS, FOLLOWER]);
  readonly domains = new Map<number, ModelDomain>();

  domainOf(endpoint: number): number | undefined {
    return [...this.domains].find(([, { endpoints }]) => endpoints.has(endpoint))?.[0];
  }

  leave(endpoint: number): void {
    const id = this.domainOf(endpoint);
    const domain = id === undefined ? undefined : this.domains.get(id);
    domain?.endpoints.delete(endpoint);
    if (id !== undefined && domain?.endpoints.size === 0) this.domains.delete(id);
  }

  attach(id: number, endpoint: number, flags: number): number {
    if (flags > 1) return INVALID;
    if (!this.endpoints.has(endpoint)) return NO_ENTRY;
    const isBypass = flags === 1;
    if ((this.domains.get(id)?.isBypass ?? isBypass) !== isBypass) return INVALID;
    if (this.domainOf(endpoint) === id) return OK;
    const has = this.domains.get(id)?.mappings ?? [];
    if (endpoint === FOLLOWER && has.some(({ gpa }) => gpa === FORBIDDEN_GPA)) return UNSUPPORTED;
    this.leave(endpoint);
    const domain = this.domains.get(id) ?? { isBypass, endpoints: new Set(), mappings: [] };
    domain.endpoints.add(endpoint);
    this.domains.set(id, domain);
    return OK;
  }

  detach(id: number, endpoint: number): number {
    if (!this.endpoints.has(endpoint)) return NO_ENTRY;
    if (this.domainOf(endpoint) !== id) return INVALID;
    this.leave(endpoint);
    return OK;
  }

  map(id: number, first: bigint, last: bigint, gpa: bigint, flags: number): number {
    const domain = this.domains.get(id);
    if (!domain) return NO_ENTRY;
    if (domain.isBypass || flags > 3) return INVALID;
    const isAligned = first % PAGE === 0n && (last + 1n) % PAGE === 0n && gpa % PAGE === 0n;
    if (!isAligned || last < first || gpa + last - first >= 2n ** 52n) return RANGE;
    if (last >= MSI_FIRST && first <= MSI_LAST) return INVALID;
    const all = [...this.domains.values()].reduce((sum, { mappings }) => sum + mappings.length, 0);
    if (all >= MAPPINGS_MAX) return NO_MEMORY;
    if (domain.mappings.some((other) => other.first <= last && first <= other.last)) return INVALID;
    if (domain.endpoints.has(FOLLOWER) && gpa === FORBIDDEN_GPA) return FAULT;
    domain.mappings.push({ first, last, gpa });
    return OK;
  }

  unmap(id: number, first: bigint, last: bigint): number {
    const domain = this.domains.get(id);
    if (!domain) return NO_ENTRY;
    if (domain.isBypass) return INVALID;
    if (last < first) return RANGE;
    const touched = domain.mappings.filter((other) => other.first <= last && first <= other.last);
    if (touched.some((other) => other.first < first || other.last > last)) return RANGE;
    domain.mappings = domain.mappings.filter((other) => !touched.includes(other));
    return OK;
  }
}

/** An endpoint that may be at work when it is sent elsewhere. */
class Worker extends FakeEndpoint {
  #end: (() => void) | undefined;

  get isAtWork(): boolean {
    return this.#end !== undefined;
  }

  begin(): void {
    if (this.isAtWork) return;
    this.underWay = new Promise((resolve) => {
      this.#end = resolve;
    });
  }

  end(): void {
    this.#end?.();
    this.#end = undefined;
    this.underWay = undefined;
  }
}

class Case {
  readonly outcomes = new Set<string>();
  readonly #below: Below;
  readonly #model = new Model();
  readonly #domains = new IommuDomains(native, { addressBits: 64, mappingsMax: MAPPINGS_MAX });
  readonly #workers = new Map(ENDPOINTS.map((id) => [id, new Worker()]));
  readonly #follower = new FakeFollower();
  readonly #driver: Driver;
  /** Answers that wait for somebody, with what each is to be. */
  #waiting: { chain: FakeChain; expected: number }[] = [];

  constructor(below: Below) {
    this.#below = below;
    for (const [id, worker] of this.#workers) void this.#domains.addEndpoint(id, worker);
    void this.#domains.addEndpoint(FOLLOWER, this.#follower);
    this.#follower.refuses = (mapping) =>
      mapping !== 'ram' && mapping.gpa === FORBIDDEN_GPA ? 'EFAULT' : undefined;
    this.#driver = new Driver(new Iommu(this.#domains));
    this.#driver.start();
  }

  async step(): Promise<void> {
    const dice = this.#below(20);
    if (dice === 0) await this.#reset();
    else if (dice === 1) this.#comeOrGo();
    else if (dice === 2) this.#workers.get(this.#endpoint())?.begin();
    else if (dice === 3) await this.#endWork();
    else if (dice === 4) await this.#babble();
    else await this.#ask();
    for (const [id, { goes }] of this.#workers) this.#checkWay(id, goes);
    await this.#domains.settled();
    this.#checkFollower();
  }

  async end(): Promise<void> {
    await this.#endWork();
    await this.#driver.pci[Symbol.asyncDispose]();
  }

  async #reset(): Promise<void> {
    for (const worker of this.#workers.values()) worker.end();
    this.#waiting = []; // its queue is no more
    await this.#driver.reset();
    this.#model.domains.clear();
    this.#driver.start();
  }

  #comeOrGo(): void {
    const id = this.#endpoint();
    const endpoint = id === FOLLOWER ? this.#follower : this.#workers.get(id);
    if (!endpoint) return;
    if (this.#model.endpoints.delete(id)) {
      this.#model.leave(id);
      this.#domains.removeEndpoint(id);
    } else {
      this.#model.endpoints.add(id);
      void this.#domains.addEndpoint(id, endpoint);
    }
  }

  async #endWork(): Promise<void> {
    for (const worker of this.#workers.values()) worker.end();
    for (const { chain, expected } of this.#waiting.splice(0))
      check((await chain.done)[0] === expected, 'What waited is answered otherwise');
  }

  async #babble(): Promise<void> {
    const bytes = Uint8Array.from({ length: this.#below(80) }, () => this.#below(256));
    bytes[0] = this.#below(2) === 0 ? 6 + this.#below(250) : 0;
    const chain = this.#driver.offer(0, bytes, this.#below(600));
    this.#driver.kick(0);
    check((await chain.done).length === 0, 'What is no request was answered');
  }

  async #ask(): Promise<void> {
    const { what, request, expected, mayWait } = this.#request();
    const chain = this.#driver.offer(0, request, what === 'probe' ? 516 : 4);
    this.#driver.kick(0);
    const answer = await Promise.race([chain.done, turns()]);
    if (answer === undefined) {
      check(mayWait && expected === OK, `${what} is not answered`);
      this.#waiting.push({ chain, expected });
      this.outcomes.add(`${what}: waits`);
      return;
    }
    check(chain.completeCount === 1, `${what} is answered twice`);
    const status = answer[answer.length - 4];
    check(status === expected, `${what}: ${status}, not ${expected}`);
    check(!mayWait || expected !== OK, `${what} did not wait`);
    this.outcomes.add(`${what}: ${status}`);
  }

  #request() {
    const domain = [0, 0, 0, 1, 2][this.#below(5)] ?? 0;
    const endpoint = this.#endpoint();
    const [first, last] = this.#range();
    const isAtWork = this.#workers.get(endpoint)?.isAtWork ?? false;
    const was = this.#model.domainOf(endpoint);
    switch (this.#below(8)) {
      case 0: {
        const flags = [0, 0, 0, 1, 2][this.#below(5)] ?? 0;
        const expected = this.#model.attach(domain, endpoint, flags);
        const mayWait = isAtWork && was !== domain;
        return { what: 'attach', request: attach(domain, endpoint, { flags }), expected, mayWait };
      }
      case 1: {
        const expected = this.#model.detach(domain, endpoint);
        return { what: 'detach', request: detach(domain, endpoint), expected, mayWait: isAtWork };
      }
      case 2: {
        const expected = this.#model.endpoints.has(endpoint) ? OK : NO_ENTRY;
        return { what: 'probe', request: probe(endpoint), expected, mayWait: false };
      }
      case 3:
      case 4: {
        const expected = this.#model.unmap(domain, first, last);
        const request = unmap(domain, { first, last });
        return { what: 'unmap', request, expected, mayWait: false };
      }
      default: {
        const odd = [0x123n, 2n ** 52n - PAGE, TOP - PAGE + 1n][this.#below(12)];
        const gpa = odd ?? BigInt(this.#below(8)) * PAGE;
        const flags = this.#below(8) === 0 ? 4 : this.#below(4);
        const expected = this.#model.map(domain, first, last, gpa, flags);
        const request = map(domain, { first, last, gpa, flags });
        return { what: 'map', request, expected, mayWait: false };
      }
    }
  }

  /** Mostly of whole pages, few of them, and close to each other. */
  #range(): [bigint, bigint] {
    const bases = [0n, 0n, 0n, MSI_FIRST - 2n * PAGE, MSI_LAST + 1n - PAGE, TOP - 4n * PAGE + 1n];
    const first = (bases[this.#below(6)] ?? 0n) + BigInt(this.#below(4)) * PAGE;
    const last = first + BigInt(this.#below(4)) * PAGE + (PAGE - 1n);
    const wild = this.#below(16);
    if (wild === 0) return [first + 1n, last <= TOP ? last : TOP];
    if (wild === 1) return [first, TOP];
    if (wild === 2) return [last <= TOP ? last : TOP, first];
    return [first, last <= TOP ? last : TOP];
  }

  #endpoint(): number {
    return [...ENDPOINTS, FOLLOWER, 9][this.#below(ENDPOINTS.length + 2)] ?? 9;
  }

  #checkWay(id: number, goes: FakeEndpoint['goes']): void {
    if (!this.#model.endpoints.has(id)) return;
    const domain = this.#model.domainOf(id);
    const isBypass = domain === undefined || this.#model.domains.get(domain)?.isBypass;
    check((goes === 'by RAM') === isBypass, `Endpoint ${id} does not go where it should`);
  }

  #checkFollower(): void {
    if (!this.#model.endpoints.has(FOLLOWER)) return;
    const domain = this.#model.domains.get(this.#model.domainOf(FOLLOWER) ?? -1);
    const firsts = domain?.mappings.map(({ first }) => Number(first >> 12n)).sort((a, b) => a - b);
    const expected = domain && !domain.isBypass ? firsts : [-1];
    check(
      `${this.#follower.pages}` === `${expected}`,
      'The follower does not reach what it should',
    );
  }
}

/** Long enough for whatever is to be answered at once, or when the follower has heard of it. */
async function turns(): Promise<undefined> {
  for (let i = 0; i < 8; i++) await new Promise((resolve) => setImmediate(resolve));
  return undefined;
}

/** @returns what was seen, such as `map: 5`. @throws Error with the seed of a case that fails. */
export async function explore(seconds: number, seed: number): Promise<Set<string>> {
  const outcomes = new Set<string>();
  const end = Date.now() + 1000 * seconds;
  for (let n = seed; Date.now() < end; n++) {
    const below = random(n);
    const one = new Case(below);
    try {
      for (let left = below(STEPS_MAX); left > 0; left--) await one.step();
      await one.end();
    } catch (cause) {
      throw new Error(`FUZZ_SEED=${n}: ${(cause as Error).message}`, { cause });
    }
    for (const outcome of one.outcomes) outcomes.add(outcome);
  }
  return outcomes;
}
