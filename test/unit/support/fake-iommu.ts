/** What is behind an IOMMU, as the IOMMU sees it. */
import type { IommuEndpoint } from '../../../src/devices/virtio/iommu-domains.ts';
import type { DmaSpace, IoDomain } from '../../../src/native-iommu.ts';

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
