/** Requests of virtio-iommu, as a driver writes them. VIRTIO 1.2 §5.13.6. */
import { Writer } from '../../src/bytes.ts';

export const attach = (domain: number, endpoint: number, { flags = 0, reserved = 0 } = {}) =>
  new Writer(20).u8(0, 1).u32(4, domain).u32(8, endpoint).u32(12, flags).u32(16, reserved).bytes;

export const detach = (domain: number, endpoint: number): Uint8Array =>
  new Writer(20).u8(0, 2).u32(4, domain).u32(8, endpoint).bytes;

const READ = 1;
const WRITE = 2;

export interface Mapping {
  first: bigint;
  last: bigint;
  gpa?: bigint;
  flags?: number;
}

export const map = (domain: number, { first, last, gpa = 0n, flags = READ | WRITE }: Mapping) =>
  new Writer(36).u8(0, 3).u32(4, domain).u64(8, first).u64(16, last).u64(24, gpa).u32(32, flags)
    .bytes;

export const unmap = (domain: number, { first, last }: Mapping): Uint8Array =>
  new Writer(28).u8(0, 4).u32(4, domain).u64(8, first).u64(16, last).bytes;

export const probe = (endpoint: number): Uint8Array =>
  new Writer(72).u8(0, 5).u32(4, endpoint).bytes;

/** The pages from `first` on, of 4 KiB. */
export const pages = (first: number, count = 1): Mapping => ({
  first: BigInt(first) * 4096n,
  last: BigInt(first + count) * 4096n - 1n,
});
