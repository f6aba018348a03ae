/** What configs say about the virtio-iommu. */

/** Whether a device, by its own part of the config, is behind it. */
export const isBehindIommu = (config: unknown): boolean =>
  (config as { iommu?: boolean }).iommu === true;

/** How many bits I/O virtual addresses may have. */
export const ADDRESS_BITS = { min: 12, max: 64 } as const;
