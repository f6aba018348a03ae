/**
 * virtio-iommu: the guest says which of its memory each device behind it reaches, and where. VIRTIO
 * 1.2 §5.13.
 *
 * Data plane: requests in this file, what they change in `iommu-domains.ts`; but MAP and UNMAP are
 * mostly carried out by the vCPU's thread that kicks (`native/engines/iommu_requests.h`). Devices
 * look their addresses up in the core (`native/memory/dma_space.h`).
 */
import { Reader, Writer } from '../../bytes.ts';
import type { Chain, Virtqueue } from '../../native.ts';
import type { IovaRange } from '../../native-iommu.ts';
import { bool } from '../../schema.ts';
import { type Activation, F_EVENT_IDX, F_INDIRECT_DESC, type VirtioDevice } from './device.ts';
import { type IommuDomains, MSI_RANGE, STATUS, type Status } from './iommu-domains.ts';

export const IommuConfig = bool(false);

// Feature bits, §5.13.3.
const F_INPUT_RANGE = 1n << 0n;
const F_MAP_UNMAP = 1n << 2n;
const F_PROBE = 1n << 4n;
const F_BYPASS_CONFIG = 1n << 6n;

// Configuration space, §5.13.4.
const PAGE_SIZE_MASK = 0;
const INPUT_RANGE_END = 16;
const DOMAIN_RANGE_END = 28;
const PROBE_SIZE = 32;
const BYPASS = 36;
const CONFIG_BYTES = 40;

const QUEUE_SIZE = 256;

/** Pages of 4 KiB are what can be mapped; of the others Linux makes few mappings where it can. */
const PAGE_SIZES = (2n << 20n) | (4n << 10n);

/** What a driver gives room for when it asks for an endpoint's properties. */
const PROBE_BYTES = 512;

// Types of requests, §5.13.6, and how long they are without what the device writes.
const ATTACH = 1;
const DETACH = 2;
const MAP = 3;
const UNMAP = 4;
const PROBE = 5;
const REQUEST_BYTES: Readonly<Record<number, number>> = {
  [ATTACH]: 20,
  [DETACH]: 20,
  [MAP]: 36,
  [UNMAP]: 28,
  [PROBE]: 72,
};
const REQUEST_BYTES_MAX = 72;
/** The status stands at the end of what the device writes. */
const TAIL_BYTES = 4;

// The only property, §5.13.6.7: what cannot be mapped.
const RESV_MEM = 1;
const RESV_MEM_BYTES = 24;
const OF_HOST = 0;
const OF_INTERRUPTS = 1;
const RESERVED_MAX = Math.floor(PROBE_BYTES / RESV_MEM_BYTES);

/** Where interrupts are written, and whatever does not exist for who follows the mappings. */
function propertiesOf(reserved: readonly IovaRange[]): Uint8Array {
  const properties = new Writer(PROBE_BYTES);
  const all = [
    { ...MSI_RANGE, subtype: OF_INTERRUPTS },
    ...reserved.map((range) => ({ ...range, subtype: OF_HOST })),
  ];
  for (const [i, { first, last, subtype }] of all.slice(0, RESERVED_MAX).entries()) {
    const at = i * RESV_MEM_BYTES;
    properties
      .u16(at, RESV_MEM)
      .u16(at + 2, RESV_MEM_BYTES - 4) // that follow
      .u8(at + 4, subtype)
      .u64(at + 8, first)
      .u64(at + 16, last);
  }
  return properties.bytes;
}

const ADDRESS_MAX = 2n ** 64n - 1n;

export class Iommu implements VirtioDevice {
  readonly virtioId = 23;
  readonly features: bigint;
  readonly queueSizes = [QUEUE_SIZE, QUEUE_SIZE];
  readonly config: Uint8Array;
  readonly sharedKick: NonNullable<VirtioDevice['sharedKick']>;
  readonly #domains: IommuDomains;
  readonly #request = new Uint8Array(REQUEST_BYTES_MAX);
  #accepted = 0n;

  constructor(domains: IommuDomains) {
    this.#domains = domains;
    this.sharedKick = { queue: 0, domains: domains.unfollowed };
    const isNarrow = domains.last < ADDRESS_MAX;
    this.features =
      F_MAP_UNMAP |
      F_PROBE |
      F_BYPASS_CONFIG |
      F_INDIRECT_DESC |
      F_EVENT_IDX |
      (isNarrow ? F_INPUT_RANGE : 0n);
    this.config = new Writer(CONFIG_BYTES)
      .u64(PAGE_SIZE_MASK, PAGE_SIZES)
      .u64(INPUT_RANGE_END, domains.last)
      .u32(DOMAIN_RANGE_END, 0xffff_ffff)
      .u32(PROBE_SIZE, PROBE_BYTES)
      .u8(BYPASS, Number(domains.isBypassed)).bytes;
  }

  /** Only `bypass` can be written; what is neither 0 nor 1 changes nothing. */
  writeConfig(offset: number, sizeBytes: number, value: number): void {
    if (offset !== BYPASS || sizeBytes !== 1 || value > 1) return;
    this.config[BYPASS] = value;
    this.#domains.isBypassed = value === 1;
  }

  /** Faults are told in the log, and by the device that they break: the second queue stays full. */
  activate({ features, queues: [requests] }: Activation): void {
    this.#accepted = features;
    requests?.onKick(() => this.#serve(requests));
    // Nobody but this would know that a driver has not accepted there to be mappings.
    if ((features & F_MAP_UNMAP) !== 0n) requests?.shareKicks(this.#domains.unfollowed);
  }

  /**
   * In order; but what waits for others to let go of a mapping is answered when they have, and the
   * queue's size bounds how much that is.
   */
  #serve(queue: Virtqueue): void {
    for (let chain = queue.take(); chain; chain = queue.take()) {
      const request = this.#parse(chain);
      if (request?.type === PROBE) this.#probe(chain, request.fields.u32(4));
      else answer(chain, request && this.#carryOut(request));
    }
  }

  /** Undefined if there is not all of a request, or no room for its answer. */
  #parse(chain: Chain): Request | undefined {
    const given = chain.read(this.#request);
    const fields = new Reader(this.#request);
    const type = given > 0 ? fields.u8(0) : 0;
    const sizeBytes = REQUEST_BYTES[type] ?? Number.POSITIVE_INFINITY;
    return given < sizeBytes || chain.writableBytes < TAIL_BYTES ? undefined : { type, fields };
  }

  /** Undefined if the driver has not accepted that there are such requests. */
  #carryOut({ type, fields }: Request): Status | Promise<Status> | undefined {
    const domain = fields.u32(4);
    if (type === ATTACH) return this.#attach(fields, domain);
    if (type === DETACH) return this.#domains.detach(domain, fields.u32(8));
    if ((this.#accepted & F_MAP_UNMAP) === 0n) return undefined;
    const [first, last] = [fields.bigU64(8), fields.bigU64(16)];
    if (type === UNMAP) return this.#domains.unmap(domain, first, last);
    const [gpa, flags] = [fields.bigU64(24), fields.u32(32)];
    return this.#domains.map({ domain, first, last, gpa, flags });
  }

  #attach(request: Reader, domain: number): Status | Promise<Status> {
    const reserved = request.u32(16);
    if (reserved !== 0) return STATUS.invalid;
    const canBypass = (this.#accepted & F_BYPASS_CONFIG) !== 0n;
    return this.#domains.attach(domain, request.u32(8), request.u32(12), canBypass);
  }

  /** The status stands behind the properties, or at the end where there is no room for them. */
  #probe(chain: Chain, endpoint: number): void {
    const hasRoom = chain.writableBytes >= PROBE_BYTES + TAIL_BYTES;
    const propertyBytes = hasRoom ? PROBE_BYTES : chain.writableBytes - TAIL_BYTES;
    const isThere = this.#domains.hasEndpoint(endpoint);
    const failure = isThere ? STATUS.invalid : STATUS.noEntry;
    const properties =
      hasRoom && isThere
        ? propertiesOf(this.#domains.reservedOf(endpoint))
        : new Uint8Array(propertyBytes);
    chain.write(properties);
    chain.write(tail(hasRoom && isThere ? STATUS.ok : failure), propertyBytes);
    chain.complete(propertyBytes + TAIL_BYTES);
  }

  /** What waits is answered by who is at work there, or has been before this resolves. */
  async pause(): Promise<void> {
    await this.#domains.settled();
  }

  resume(): void {}

  async reset(): Promise<void> {
    await this.#domains.reset();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.reset();
  }
}

interface Request {
  type: number;
  /** Good until the next is parsed. */
  fields: Reader;
}

const tail = (status: Status): Uint8Array => Uint8Array.of(status, 0, 0, 0);

/** What is no request goes back as it is. */
function answer(chain: Chain, status: Status | Promise<Status> | undefined): void {
  if (status === undefined) chain.complete(0);
  else if (typeof status === 'number') chain.complete(chain.write(tail(status)));
  else void status.then((late) => answer(chain, late));
}
