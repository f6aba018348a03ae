/**
 * Where the parts of a virtio function lie, as its capabilities tell the driver. VIRTIO 1.2 §4.1.4.
 */
import { Reader, Writer } from '../../bytes.ts';
import type { LateWriteHandler } from '../../native.ts';
import type { Capability, ConfigSpace } from '../pci/config-space.ts';

const VENDOR_SPECIFIC = 0x09;

const TYPE = { common: 1, notify: 2, isr: 3, device: 4, pciAccess: 5, sharedMemory: 8 } as const;

/** Everything is in this BAR, but shared memory. */
export const BAR = 0;
export const BAR_BYTES = 0x8_0000;

/** Of 64 bits. */
export const SHARED_MEMORY_BAR = 2;

export const PARTS = {
  common: { offset: 0x0000, sizeBytes: 56 },
  isr: { offset: 0x2000, sizeBytes: 1 },
  device: { offset: 0x4000, sizeBytes: 0x1000 },
  notify: { offset: 0x6000, sizeBytes: 0x1000 },
  /** Entries and bits as many as there are vectors, at most 2048. */
  msixTable: { offset: 0x8000, sizeBytes: 0x8000 },
  msixPending: { offset: 0x4_8000, sizeBytes: 0x1000 },
} as const;

/** Bytes from one queue's kick to the next. */
export const NOTIFY_MULTIPLIER = 4;

// Offsets of `struct virtio_pci_cap`, less the two bytes that every capability begins with.
const LENGTH = 0;
const CFG_TYPE = 1;
const IN_BAR = 2;
const PART_OFFSET = 6;
const PART_BYTES = 10;
const CAP_BYTES = 14;
/** What a notify or access capability has besides: the multiplier, or the window. */
const EXTRA = CAP_BYTES;

/** What a shared memory capability has besides: the upper halves of its offset and length. */
const LENGTH_HIGH = CAP_BYTES + 4;

/** All but MSI-X, in order. `bar` answers what goes through the access capability's window. */
export function addVirtioCapabilities(
  space: ConfigSpace,
  bar: LateWriteHandler,
  hasDeviceConfig: boolean,
): void {
  space.addCapability(part(TYPE.common, PARTS.common));
  space.addCapability(part(TYPE.isr, PARTS.isr));
  if (hasDeviceConfig) space.addCapability(part(TYPE.device, PARTS.device));
  const notify = part(TYPE.notify, PARTS.notify, 4);
  new DataView(notify.body.buffer).setUint32(EXTRA, NOTIFY_MULTIPLIER, true);
  space.addCapability(notify);
  addAccessWindow(space, bar);
}

/** Region 0, which fills its BAR from the start. §4.1.4.7 */
export function addSharedMemoryCapability(space: ConfigSpace, sizeBytes: number): void {
  const { id, body } = part(TYPE.sharedMemory, { offset: 0, sizeBytes: sizeBytes % 2 ** 32 }, 8);
  body[IN_BAR] = SHARED_MEMORY_BAR;
  new DataView(body.buffer).setUint32(LENGTH_HIGH, Math.floor(sizeBytes / 2 ** 32), true);
  space.addCapability({ id, body });
}

function part(
  type: number,
  { offset, sizeBytes }: { offset: number; sizeBytes: number },
  extraBytes = 0,
): Capability {
  const body = new Writer(CAP_BYTES + extraBytes)
    .u8(LENGTH, CAP_BYTES + extraBytes + 2)
    .u8(CFG_TYPE, type)
    .u8(IN_BAR, BAR)
    .u32(PART_OFFSET, offset)
    .u32(PART_BYTES, sizeBytes).bytes;
  return { id: VENDOR_SPECIFIC, body };
}

/**
 * A window of four bytes that a driver without access to memory points anywhere into the BAR: what
 * it then does to the window's data is done there. §4.1.4.9
 */
function addAccessWindow(space: ConfigSpace, bar: LateWriteHandler): void {
  const writable = new Writer(CAP_BYTES + 4)
    .u8(IN_BAR, 0xff)
    .u32(PART_OFFSET, 0xffff_ffff)
    .u32(PART_BYTES, 0xffff_ffff)
    .u32(EXTRA, 0xffff_ffff).bytes;
  const body = space.addCapability({
    ...part(TYPE.pciAccess, { offset: 0, sizeBytes: 0 }, 4),
    writable,
    onRead: (offset, sizeBytes) => {
      if (offset + sizeBytes > EXTRA && pointsInside()) read();
    },
    onWrite: (offset, sizeBytes) => {
      if (offset + sizeBytes > EXTRA && pointsInside()) return write();
    },
  });
  const fields = new Reader(body);
  const data = new DataView(body.buffer, body.byteOffset + EXTRA, 4);
  const pointsInside = () => {
    const [target, sizeBytes] = [fields.u32(PART_OFFSET), fields.u32(PART_BYTES)];
    const isWidth = sizeBytes === 1 || sizeBytes === 2 || sizeBytes === 4;
    const isInside = fields.u8(IN_BAR) === BAR && target + sizeBytes <= BAR_BYTES;
    return isWidth && target % sizeBytes === 0 && isInside;
  };
  const read = () =>
    data.setUint32(0, bar.read(fields.u32(PART_OFFSET), fields.u32(PART_BYTES)), true);
  const write = () => {
    const sizeBytes = fields.u32(PART_BYTES);
    const value = data.getUint32(0, true) % 2 ** (8 * sizeBytes);
    return bar.write(fields.u32(PART_OFFSET), sizeBytes, value);
  };
}
