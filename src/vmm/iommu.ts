/** Which devices of a VM are behind its virtio-iommu, and what the guest is told of that. */
import type { PciPlace } from '../devices/device.ts';
import { IommuDomains, type IommuEndpoint, STATUS } from '../devices/virtio/iommu-domains.ts';
import { VmmError } from '../errors.ts';
import type { Native } from '../native.ts';
import type { DmaSpace } from '../native-iommu.ts';
import type { IommuRange } from './acpi/iommu.ts';
import { ADDRESS_BITS, isBehindIommu } from './config/iommu.ts';
import type { VmConfig } from './config.ts';

/** The ids of endpoints, of which those of a segment are in a row: bus 0, function 0. */
const SEGMENT_SHIFT = 16;
const SLOT_SHIFT = 3;

export class VmIommu {
  readonly domains: IommuDomains;
  readonly #native: Pick<Native, 'IoDomain' | 'IoDomains' | 'DmaSpace'>;
  readonly #segments: readonly number[];

  constructor(
    native: Pick<Native, 'IoDomain' | 'IoDomains' | 'DmaSpace'>,
    { addressBits, segments }: { addressBits: number; segments: readonly number[] },
  ) {
    this.#native = native;
    this.#segments = segments;
    this.domains = new IommuDomains(native, { addressBits });
  }

  /** Of a config, if it has any. */
  static of(
    native: Pick<Native, 'IoDomain' | 'IoDomains' | 'DmaSpace'>,
    { iommu, platform }: Pick<VmConfig, 'iommu' | 'platform'>,
  ): VmIommu | undefined {
    if (!iommu) return undefined;
    const {
      iommu_address_width_bits: addressBits = ADDRESS_BITS.max,
      iommu_segments: segments = [],
    } = platform ?? {};
    return new VmIommu(native, { addressBits, segments });
  }

  hasSegment(segment: number): boolean {
    return this.#segments.includes(segment);
  }

  /** For a device that is about to be there; `add` is to follow. */
  newSpace(): DmaSpace {
    return new this.#native.DmaSpace();
  }

  /** @throws VmmError 'host' if it cannot reach what it is to reach at first. */
  async add(place: PciPlace, endpoint: IommuEndpoint): Promise<void> {
    const status = await this.domains.addEndpoint(endpointOf(place), endpoint);
    if (status === STATUS.ok) return;
    this.remove(place);
    throw new VmmError('host', 'The host cannot put a device behind the virtual IOMMU');
  }

  /** What is in that slot is about to be no more, if it was behind the IOMMU. */
  remove(place: PciPlace): void {
    this.domains.removeEndpoint(endpointOf(place));
  }

  /** Whole segments, for devices may be plugged there, and one by one what is elsewhere. */
  get ranges(): IommuRange[] {
    const alone = [...this.domains.endpoints]
      .map((endpoint) => {
        const [segment, bdf] = [endpoint >> SEGMENT_SHIFT, endpoint & 0xffff];
        return { endpoint, segment, firstBdf: bdf, lastBdf: bdf };
      })
      .filter(({ segment }) => !this.hasSegment(segment));
    const whole = this.#segments.map((segment) => {
      return { endpoint: segment << SEGMENT_SHIFT, segment, firstBdf: 0, lastBdf: 0xff };
    });
    return [...whole, ...alone];
  }
}

const endpointOf = ({ segment, slot }: PciPlace): number =>
  (segment << SEGMENT_SHIFT) | (slot << SLOT_SHIFT);

/**
 * What a device that is to be behind the IOMMU reaches, undefined for others. The guest was told at
 * its boot which functions are behind it, so what is plugged can be in segments that are.
 * @throws VmmError 'invalid-config' if it is plugged elsewhere.
 */
export function openDmaSpace(
  iommu: VmIommu | undefined,
  { at, config }: { at: string; config: unknown },
  { segment }: PciPlace,
  isPlugged: boolean,
): DmaSpace | undefined {
  if (!isBehindIommu(config)) return undefined;
  if (iommu && (!isPlugged || iommu.hasSegment(segment))) return iommu.newSpace();
  const remedy =
    `${at}.iommu is true on PCI segment ${segment}: plug it into one of platform.iommu_segments, ` +
    'with which the VM is to be created';
  const cause = new Error('Cannot hotplug device behind vIOMMU', { cause: new Error(remedy) });
  throw new VmmError('invalid-config', 'Error from device manager', cause);
}
