/**
 * The messages of vfio-user as this side, the client, sends and gets them: each as bytes and back.
 * What comes from a server is checked wholly here; nothing that it sends is taken on trust.
 * Source: the vfio-user protocol, version 0.1, as in docs/interop/vfio-user of QEMU; structures as
 * in linux/vfio.h.
 */
import { Reader, Writer } from '../../bytes.ts';
import { type Descriptors, FdMessageReader } from '../../fd-messages.ts';
import { VFIO, type VfioRegion } from '../../native-vfio.ts';
import type { SharedRegion } from '../../native-vhost.ts';

export const COMMAND = {
  version: 1,
  dmaMap: 2,
  dmaUnmap: 3,
  getInfo: 4,
  getRegionInfo: 5,
  getIrqInfo: 7,
  setIrqs: 8,
  regionRead: 9,
  regionWrite: 10,
  /** Those two are the server's to ask. */
  dmaRead: 11,
  dmaWrite: 12,
  reset: 13,
} as const;
export type CommandName = keyof typeof COMMAND;

const HEADER_BYTES = 16;
const TYPE_MASK = 0xf;
const TYPE_REPLY = 1;
const FLAG_NO_REPLY = 1 << 4;
const FLAG_ERROR = 1 << 5;

/** Of any that a server has reason to send us. */
export const MESSAGE_BYTES_MAX = 4096;
/** Most that we read of a region at once. */
const READ_BYTES_MAX = 2048;
/** No message that we ask for brings more. */
const FDS_MAX = 1;

const MAJOR = 0;
const MINOR = 1;

const FLAG_RESET = 1 << 0;
const FLAG_PCI = 1 << 1;
/** `VFIO_PCI_NUM_REGIONS`. */
const REGIONS_MIN = VFIO.configRegion + 1;

const REGION_MMAP = 1 << 2;
const REGION_CAPS = 1 << 3;
const REGION_INFO_BYTES = 32;
const CAP_SPARSE_MMAP = 1;
/** Memory slots of a VM are few; exits serve the rest. */
const AREAS_MAX = 16;
const PAGE_BYTES = 4096;

const IRQ_EVENTFD = 1 << 0;
/** By index: a line, MSI (PCI Local Bus 3.0 §6.8.1), MSI-X (§6.8.2). */
const IRQ_COUNT_MAX: Readonly<Record<number, number>> = {
  [VFIO.intx]: 1,
  [VFIO.msi]: 32,
  [VFIO.msix]: 2048,
};
const IRQ_DATA_NONE = 1 << 0;
const IRQ_DATA_EVENTFD = 1 << 2;
export const IRQ_UNMASK = 1 << 4;
export const IRQ_TRIGGER = 1 << 5;

/** The server broke the protocol: nothing more that it says can be understood. */
export class ProtocolError extends Error {}

export interface Message extends Descriptors {
  id: number;
  command: number;
  isReply: boolean;
  needsReply: boolean;
  /** Of a reply that says no: an errno, or 0. */
  refusal: number | undefined;
  payload: Uint8Array;
}

export function encode(
  { id, command }: Pick<Message, 'id' | 'command'>,
  payload: Uint8Array,
  { isReply = false, refusal = undefined as number | undefined } = {},
): Uint8Array {
  const flags = (isReply ? TYPE_REPLY : 0) | (refusal === undefined ? 0 : FLAG_ERROR);
  return new Writer(HEADER_BYTES + payload.length)
    .u16(0, id)
    .u16(2, command)
    .u32(4, HEADER_BYTES + payload.length)
    .u32(8, flags)
    .u32(12, refusal ?? 0)
    .put(HEADER_BYTES, payload).bytes;
}

/** Puts messages together. What it throws is a ProtocolError. */
export class MessageReader extends FdMessageReader<Omit<Message, 'fds'>> {
  constructor() {
    super({ parse, fdsMax: FDS_MAX, tooMany: (n) => new ProtocolError(`${n} descriptors`) });
  }
}

function parse(bytes: Uint8Array) {
  if (bytes.length < HEADER_BYTES) return undefined;
  const header = new Reader(bytes);
  const [sizeBytes, flags] = [header.u32(4), header.u32(8)];
  if (sizeBytes < HEADER_BYTES || sizeBytes > MESSAGE_BYTES_MAX)
    throw new ProtocolError(`a message of ${sizeBytes} bytes`);
  if ((flags & TYPE_MASK) > TYPE_REPLY || flags >= 2 * FLAG_ERROR)
    throw new ProtocolError(`flags 0x${flags.toString(16)}`);
  if (bytes.length < sizeBytes) return undefined;
  const message = {
    ...{ id: header.u16(0), command: header.u16(2) },
    isReply: (flags & TYPE_MASK) === TYPE_REPLY,
    needsReply: (flags & FLAG_NO_REPLY) === 0,
    refusal: (flags & FLAG_ERROR) === 0 ? undefined : header.u32(12),
    payload: Uint8Array.from(bytes.subarray(HEADER_BYTES, sizeBytes)),
  };
  return { message, sizeBytes };
}

/** What we can: the server sends one descriptor a message at most. */
export function encodeVersion(): Uint8Array {
  const capabilities = { max_msg_fds: FDS_MAX, max_data_xfer_size: READ_BYTES_MAX };
  const text = JSON.stringify({ capabilities });
  return new Writer(4 + text.length + 1).u16(0, MAJOR).u16(2, MINOR).ascii(4, text).bytes;
}

/** How many descriptors the server takes with a message. */
export function decodeVersion(payload: Uint8Array): { fdsMax: number } {
  requireSize(payload, 4, true);
  const [major, minor] = [new Reader(payload).u16(0), new Reader(payload).u16(2)];
  if (major !== MAJOR || minor > MINOR)
    throw new ProtocolError(`version ${major}.${minor} in place of ${MAJOR}.${MINOR}`);
  const [text = ''] = Buffer.from(payload.subarray(4)).toString('utf8').split('\0');
  const { capabilities } = (text === '' ? {} : parseObject(text)) as { capabilities?: unknown };
  const { max_msg_fds: fds = 1 } = (capabilities ?? {}) as { max_msg_fds?: unknown };
  if (typeof fds !== 'number' || !Number.isInteger(fds) || fds < 1)
    throw new ProtocolError(`max_msg_fds ${JSON.stringify(fds)}`);
  // Of a reply that names no number the protocol says one; the kernel takes 253.
  return { fdsMax: Math.min(fds, 253) };
}

function parseObject(text: string): object {
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch {
    value = undefined;
  }
  if (typeof value === 'object' && value !== null) return value;
  throw new ProtocolError('capabilities that are no JSON object');
}

/** `sizeBytes` is the most that we take of a reply. */
export const encodeGetInfo = (): Uint8Array => new Writer(16).u32(0, 16).bytes;

export function decodeInfo(payload: Uint8Array): { resets: boolean; irqKinds: number } {
  requireSize(payload, 16, true);
  const fields = new Reader(payload);
  const [flags, regions, irqKinds] = [fields.u32(4), fields.u32(8), fields.u32(12)];
  if ((flags & FLAG_PCI) === 0) throw new ProtocolError('its device is no PCI device');
  if (regions < REGIONS_MIN) throw new ProtocolError(`${regions} regions, and a PCI device has 9`);
  return { resets: (flags & FLAG_RESET) !== 0, irqKinds };
}

export const encodeGetRegionInfo = (index: number): Uint8Array =>
  new Writer(REGION_INFO_BYTES).u32(0, MESSAGE_BYTES_MAX - HEADER_BYTES).u32(8, index).bytes;

export interface UserRegion extends VfioRegion {
  /** Where it begins in the file that came along, if any of it can be mapped. */
  fileOffset: number;
}

export function decodeRegionInfo(payload: Uint8Array, index: number, fdCount: number): UserRegion {
  requireSize(payload, REGION_INFO_BYTES, true);
  const fields = new Reader(payload);
  if (fields.u32(8) !== index) throw new ProtocolError(`region ${fields.u32(8)} for ${index}`);
  const flags = fields.u32(4);
  const canMap = (flags & REGION_MMAP) !== 0;
  if (fdCount > 0 && !canMap)
    throw new ProtocolError(
      `${fdCount} descriptors for region ${index}, none of which can be mapped`,
    );
  const [sizeBytes, fileOffset] = [fields.u64(16), fields.u64(24)];
  if (!canMap || fdCount === 0) return { sizeBytes, fileOffset: 0, areas: [] };
  const sparse = (flags & REGION_CAPS) !== 0 ? findSparse(fields, fields.u32(12)) : undefined;
  const wholeBytes = sizeBytes - (sizeBytes % PAGE_BYTES);
  const areas = sparse ?? (wholeBytes > 0 ? [{ offset: 0, sizeBytes: wholeBytes }] : []);
  if (fileOffset % PAGE_BYTES !== 0 || !Number.isSafeInteger(fileOffset + sizeBytes))
    throw new ProtocolError(`region ${index} at ${fileOffset} of its file`);
  for (const [i, area] of areas.entries()) {
    const before = areas.slice(0, i).some((other) => overlap(area, other));
    if (before || !isWithin(area, sizeBytes))
      throw new ProtocolError(
        `region ${index} of ${sizeBytes} bytes can be mapped at ${area.offset}, ${area.sizeBytes} bytes`,
      );
  }
  return { sizeBytes, fileOffset, areas };
}

type Area = VfioRegion['areas'][number];

const isWithin = ({ offset, sizeBytes }: Area, regionBytes: number): boolean =>
  sizeBytes > 0 &&
  offset % PAGE_BYTES === 0 &&
  sizeBytes % PAGE_BYTES === 0 &&
  offset + sizeBytes <= regionBytes;

const overlap = (a: Area, b: Area): boolean =>
  a.offset < b.offset + b.sizeBytes && b.offset < a.offset + a.sizeBytes;

/** Undefined if there is no such capability. Each step leads further on, so there is an end. */
function findSparse(fields: Reader, first: number): Area[] | undefined {
  for (let at = first; at >= REGION_INFO_BYTES && at + 8 <= fields.sizeBytes; ) {
    const next = fields.u32(at + 4);
    if (fields.u16(at) === CAP_SPARSE_MMAP) return decodeAreas(fields, at + 8);
    if (next <= at) break;
    at = next;
  }
  return undefined;
}

function decodeAreas(fields: Reader, at: number): Area[] {
  const count = at + 8 <= fields.sizeBytes ? fields.u32(at) : 0;
  if (at + 8 + 16 * count > fields.sizeBytes) throw new ProtocolError(`${count} areas, cut short`);
  const areas = Array.from({ length: count }, (_, i) => ({
    offset: fields.u64(at + 8 + 16 * i),
    sizeBytes: fields.u64(at + 16 + 16 * i),
  }));
  return areas.filter(({ sizeBytes }) => sizeBytes > 0).slice(0, AREAS_MAX);
}

export const encodeGetIrqInfo = (index: number): Uint8Array =>
  new Writer(16).u32(0, 16).u32(8, index).bytes;

/** How many there are that signal eventfds. */
export function decodeIrqInfo(payload: Uint8Array, index: number): number {
  requireSize(payload, 16, true);
  const fields = new Reader(payload);
  const [flags, told, count] = [fields.u32(4), fields.u32(8), fields.u32(12)];
  if (told !== index) throw new ProtocolError(`interrupts ${told} for ${index}`);
  if (count > (IRQ_COUNT_MAX[index] ?? 0))
    throw new ProtocolError(`${count} interrupts of kind ${index}`);
  return (flags & IRQ_EVENTFD) === 0 ? 0 : count;
}

/** Each is signalled by the descriptor that goes along; none of them is without any. */
export const encodeSetIrqs = (
  action: number,
  index: number,
  start: number,
  count: number,
): Uint8Array =>
  new Writer(20)
    .u32(0, 20)
    .u32(4, action | (count === 0 ? IRQ_DATA_NONE : IRQ_DATA_EVENTFD))
    .u32(8, index)
    .u32(12, start)
    .u32(16, count).bytes;

export interface RegionAccess {
  region: number;
  offset: number;
  sizeBytes: number;
}

export const encodeRead = ({ region, offset, sizeBytes }: RegionAccess): Uint8Array =>
  new Writer(16).u64(0, offset).u32(8, region).u32(12, sizeBytes).bytes;

export const encodeWrite = (access: RegionAccess, value: number): Uint8Array => {
  const bytes = new Writer(4).u32(0, value).bytes.subarray(0, access.sizeBytes);
  return Uint8Array.from([...encodeRead(access), ...bytes]);
};

/** The bytes that were read. */
export function decodeRead(payload: Uint8Array, access: RegionAccess): Uint8Array {
  requireSize(payload, 16 + access.sizeBytes);
  checkAccess(payload, access);
  return payload.subarray(16);
}

export function checkWritten(payload: Uint8Array, access: RegionAccess): void {
  requireSize(payload, 16);
  checkAccess(payload, access);
}

function checkAccess(payload: Uint8Array, { region, offset, sizeBytes }: RegionAccess): void {
  const fields = new Reader(payload);
  if (fields.u64(0) !== offset || fields.u32(8) !== region || fields.u32(12) !== sizeBytes)
    throw new ProtocolError('an answer to another access');
}

const DMA_READABLE = 1 << 0;
const DMA_WRITABLE = 1 << 1;

export const encodeDmaMap = (region: Omit<SharedRegion, 'fd'>): Uint8Array => {
  const { gpa, sizeBytes, fileOffset, readonly } = region;
  return new Writer(32)
    .u32(0, 32)
    .u32(4, DMA_READABLE | (readonly ? 0 : DMA_WRITABLE))
    .u64(8, fileOffset)
    .u64(16, gpa)
    .u64(24, sizeBytes).bytes;
};

export const encodeDmaUnmap = ({
  gpa,
  sizeBytes,
}: Pick<SharedRegion, 'gpa' | 'sizeBytes'>): Uint8Array =>
  new Writer(24).u32(0, 24).u64(8, gpa).u64(16, sizeBytes).bytes;

/** @param isLeast more of it is of later versions. */
function requireSize(payload: Uint8Array, sizeBytes: number, isLeast = false): void {
  if (payload.length === sizeBytes || (isLeast && payload.length > sizeBytes)) return;
  throw new ProtocolError(`an answer of ${payload.length} bytes in place of ${sizeBytes}`);
}
