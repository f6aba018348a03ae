/** What every ACPI table begins with. */
import { Writer } from '../../bytes.ts';

export const HEADER_BYTES = 36;
export const OEM_ID = 'CLOUDH';
const OEM_REVISION = 1;
const CREATOR_ID = 'RVAT';
const CREATOR_REVISION = 0x0100_0000;

/** §5.2.6: the header, then `body`; all bytes together sum to 0. */
export function table(
  signature: string,
  revision: number,
  body: Uint8Array,
  id = signature,
): Uint8Array {
  const { bytes } = new Writer(HEADER_BYTES + body.length)
    .ascii(0, signature)
    .u32(4, HEADER_BYTES + body.length)
    .u8(8, revision)
    .ascii(10, OEM_ID)
    .ascii(16, `CH${id}`.padEnd(8))
    .u32(24, OEM_REVISION)
    .ascii(28, CREATOR_ID)
    .u32(32, CREATOR_REVISION)
    .put(HEADER_BYTES, body);
  bytes[9] = checksum(bytes);
  return bytes;
}

/** What makes the sum of the bytes 0. */
export const checksum = (bytes: Uint8Array): number =>
  -bytes.reduce((sum, byte) => sum + byte, 0) & 0xff;
