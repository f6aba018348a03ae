/**
 * The messages of vhost-user as this side, the frontend, sends and gets them: each as bytes and
 * back. What comes from a backend is checked wholly here; nothing that it sends is taken on trust.
 * Source: the vhost-user protocol, version 1, as in docs/interop/vhost-user of QEMU.
 */
import { Reader, Writer } from '../../bytes.ts';
import { type Descriptors, FdMessageReader } from '../../fd-messages.ts';
import type { SharedRegion } from '../../native-vhost.ts';

/** What a frontend asks of a backend. */
export const REQUEST = {
  getFeatures: 1,
  setFeatures: 2,
  setOwner: 3,
  setMemTable: 5,
  setVringNum: 8,
  setVringAddr: 9,
  setVringBase: 10,
  getVringBase: 11,
  setVringKick: 12,
  setVringCall: 13,
  getProtocolFeatures: 15,
  setProtocolFeatures: 16,
  getQueueNum: 17,
  setVringEnable: 18,
  netSetMtu: 20,
  setBackendReqFd: 21,
  getConfig: 24,
  setConfig: 25,
  getInflightFd: 31,
  setInflightFd: 32,
} as const;
export type RequestName = keyof typeof REQUEST;

/** What a backend asks of us, on a connection of its own. */
export const BACKEND_REQUEST = {
  configChanged: 2,
  /** Of the virtio-fs draft of 2020: without `PROTOCOL.sharedMemory` only. */
  fsMap: 6,
  fsUnmap: 7,
  fsSync: 8,
  sharedMemoryMap: 9,
  sharedMemoryUnmap: 10,
} as const;

/** Feature bit: the backend has protocol features. It is the protocol's own, not the device's. */
export const F_PROTOCOL_FEATURES = 1n << 30n;

/** Protocol features, those that we know what to do with. */
export const PROTOCOL = {
  mq: 1n << 0n,
  replyAck: 1n << 3n,
  netMtu: 1n << 4n,
  backendReq: 1n << 5n,
  config: 1n << 9n,
  backendSendFd: 1n << 10n,
  inflight: 1n << 12n,
  sharedMemory: 1n << 20n,
} as const;

const HEADER_BYTES = 12;
const VERSION = 1;
const VERSION_MASK = 3;
const FLAG_REPLY = 4;
const FLAG_NEED_REPLY = 8;

/** Of a configuration space, and no other answer is as long. */
const CONFIG_BYTES_MAX = 256;
const CONFIG_HEADER_BYTES = 12;
const PAYLOAD_BYTES_MAX = CONFIG_HEADER_BYTES + CONFIG_BYTES_MAX;

/** No message that we know of brings more. */
const FDS_MAX = 1;

/** The memory table holds no more; RAM comes first in it. */
export const REGIONS_MAX = 8;

/** The backend broke the protocol: nothing more that it says can be understood. */
export class ProtocolError extends Error {}

/** With one descriptor at most. */
export interface Message extends Descriptors {
  request: number;
  isReply: boolean;
  needsReply: boolean;
  payload: Uint8Array;
}

export function encode(
  request: number,
  payload: Uint8Array,
  { isReply = false, needsReply = false } = {},
): Uint8Array {
  const flags = VERSION | (isReply ? FLAG_REPLY : 0) | (needsReply ? FLAG_NEED_REPLY : 0);
  return new Writer(HEADER_BYTES + payload.length)
    .u32(0, request)
    .u32(4, flags)
    .u32(8, payload.length)
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
  const [request, flags, sizeBytes] = [header.u32(0), header.u32(4), header.u32(8)];
  if ((flags & VERSION_MASK) !== VERSION)
    throw new ProtocolError(`version ${flags & VERSION_MASK}`);
  if (flags > (VERSION | FLAG_REPLY | FLAG_NEED_REPLY))
    throw new ProtocolError(`flags 0x${flags.toString(16)}`);
  if (sizeBytes > PAYLOAD_BYTES_MAX) throw new ProtocolError(`a message of ${sizeBytes} bytes`);
  if (bytes.length < HEADER_BYTES + sizeBytes) return undefined;
  const payload = Uint8Array.from(bytes.subarray(HEADER_BYTES, HEADER_BYTES + sizeBytes));
  const isReply = (flags & FLAG_REPLY) !== 0;
  const needsReply = (flags & FLAG_NEED_REPLY) !== 0;
  const message = { request, isReply, needsReply, payload };
  return { message, sizeBytes: HEADER_BYTES + sizeBytes };
}

export const encodeU64 = (value: number | bigint): Uint8Array => new Writer(8).u64(0, value).bytes;

export function decodeU64(payload: Uint8Array): bigint {
  requireSize(payload, 8);
  return Buffer.from(payload).readBigUInt64LE();
}

/** The state of a queue: its number, and a size, an index, or 1 for on. */
export const encodeVring = (queue: number, value: number): Uint8Array =>
  new Writer(8).u32(0, queue).u32(4, value).bytes;

export function decodeVring(payload: Uint8Array, queue: number): number {
  requireSize(payload, 8);
  const reader = new Reader(payload);
  if (reader.u32(0) !== queue) throw new ProtocolError(`queue ${reader.u32(0)} for ${queue}`);
  return reader.u32(4);
}

/**
 * Guest physical addresses in place of ours: a backend only compares them with those of the memory
 * table, and where RAM lies in our address space is nobody's business.
 */
export const encodeVringAddr = (
  queue: number,
  { descGpa, availGpa, usedGpa }: { descGpa: number; availGpa: number; usedGpa: number },
): Uint8Array =>
  new Writer(40).u32(0, queue).u64(8, descGpa).u64(16, usedGpa).u64(24, availGpa).bytes;

export function encodeMemTable(all: readonly SharedRegion[]): {
  payload: Uint8Array;
  fds: number[];
} {
  const regions = all.slice(0, REGIONS_MAX);
  const writer = new Writer(8 + 32 * regions.length).u32(0, regions.length);
  for (const [i, { gpa, sizeBytes, fileOffset }] of regions.entries()) {
    const at = 8 + 32 * i;
    writer
      .u64(at, gpa)
      .u64(at + 8, sizeBytes)
      .u64(at + 16, gpa)
      .u64(at + 24, fileOffset);
  }
  return { payload: writer.bytes, fds: regions.map(({ fd }) => fd) };
}

/** A part of the configuration space. */
export function encodeConfig(offset: number, bytes: Uint8Array): Uint8Array {
  return new Writer(CONFIG_HEADER_BYTES + bytes.length)
    .u32(0, offset)
    .u32(4, bytes.length)
    .put(CONFIG_HEADER_BYTES, bytes).bytes;
}

/** The `sizeBytes` from 0 on; undefined if the backend has not got them. */
export function decodeConfig(payload: Uint8Array, sizeBytes: number): Uint8Array | undefined {
  if (payload.length === 0) return undefined;
  requireSize(payload, CONFIG_HEADER_BYTES + sizeBytes);
  const reader = new Reader(payload);
  if (reader.u32(0) !== 0 || reader.u32(4) !== sizeBytes)
    throw new ProtocolError('another part of the configuration');
  return reader.bytes(CONFIG_HEADER_BYTES, sizeBytes);
}

/** Where a backend notes which requests it has begun, so that its successor can finish them. */
export interface Inflight {
  sizeBytes: bigint;
  fileOffset: bigint;
}

/** As C lays it out: four bytes at the end are padding. */
const INFLIGHT_BYTES = 24;

export const encodeInflight = (
  { sizeBytes, fileOffset }: Inflight,
  queueCount: number,
  queueSize: number,
): Uint8Array =>
  new Writer(INFLIGHT_BYTES)
    .u64(0, sizeBytes)
    .u64(8, fileOffset)
    .u16(16, queueCount)
    .u16(18, queueSize).bytes;

export function decodeInflight(payload: Uint8Array): Inflight {
  requireSize(payload, INFLIGHT_BYTES);
  const bytes = Buffer.from(payload);
  return { sizeBytes: bytes.readBigUInt64LE(0), fileOffset: bytes.readBigUInt64LE(8) };
}

/** A range of a device's shared memory, and what of the file that came along is to be there. */
export interface MemoryRange {
  offset: number;
  sizeBytes: number;
  fileOffset: number;
  writable: boolean;
}

/** Of the draft: so many ranges a message, each field of all of them in turn. */
const FS_RANGES = 8;
const FS_MAP_WRITABLE = 2n;
const FS_MAP_FLAGS = 3n;

/** Of this length means: all that there is. */
const FS_ALL = 2n ** 64n - 1n;

/** Those that are not empty. `windowBytes`: what all of it comes to. */
export function decodeFsRanges(payload: Uint8Array, windowBytes: number): MemoryRange[] {
  requireSize(payload, 4 * 8 * FS_RANGES);
  const bytes = Buffer.from(payload);
  return Array.from({ length: FS_RANGES }, (_, i) => {
    const field = (n: number) => bytes.readBigUInt64LE(8 * (FS_RANGES * n + i));
    const [fileOffset, offset, size, flags] = [field(0), field(1), field(2), field(3)];
    if (size !== 0n && flags > FS_MAP_FLAGS) throw new ProtocolError(`flags ${flags} of a range`);
    return {
      ...{ offset: exact(offset), fileOffset: exact(fileOffset) },
      sizeBytes: size === FS_ALL ? windowBytes : exact(size),
      writable: (flags & FS_MAP_WRITABLE) !== 0n,
    };
  }).filter(({ sizeBytes }) => sizeBytes > 0);
}

/** Of region 0, the only one that there is. */
export function decodeMemoryRange(payload: Uint8Array): MemoryRange {
  requireSize(payload, 40);
  const bytes = Buffer.from(payload);
  if (bytes[0] !== 0) throw new ProtocolError(`shared memory region ${bytes[0]}`);
  const flags = bytes.readBigUInt64LE(32);
  if (flags > 1n) throw new ProtocolError(`flags ${flags} of a range`);
  return {
    fileOffset: exact(bytes.readBigUInt64LE(8)),
    offset: exact(bytes.readBigUInt64LE(16)),
    sizeBytes: exact(bytes.readBigUInt64LE(24)),
    writable: flags === 1n,
  };
}

function exact(value: bigint): number {
  if (value > BigInt(Number.MAX_SAFE_INTEGER)) throw new ProtocolError(`a place of ${value}`);
  return Number(value);
}

function requireSize(payload: Uint8Array, sizeBytes: number): void {
  if (payload.length !== sizeBytes)
    throw new ProtocolError(`${payload.length} bytes in place of ${sizeBytes}`);
}
