/** A vfio-user server that keeps to the script of a test: real sockets, and a device of bytes. */
import { closeSync } from 'node:fs';
import { Reader, Writer } from '../../../src/bytes.ts';
import {
  COMMAND,
  type CommandName,
  encode,
  MESSAGE_BYTES_MAX,
  type Message,
} from '../../../src/devices/vfio-user/protocol.ts';
import { FdMessageReader } from '../../../src/fd-messages.ts';
import { native } from '../../../src/native.ts';
import type { FdListener, FdSocket } from '../../../src/native-sockets.ts';
import { VFIO } from '../../../src/native-vfio.ts';

/** A payload, a whole message, an errno, or nothing at all. */
export type Reply =
  | Uint8Array
  | { raw: Uint8Array; fds?: readonly number[] }
  | { payload: Uint8Array; fds: readonly number[] }
  | { errno: number }
  | 'silence';
export type Script = Partial<
  Record<CommandName, (payload: Uint8Array, message: Message) => Reply | undefined>
>;

export interface Heard {
  name: CommandName;
  payload: Buffer;
  fdCount: number;
}

const NAMES = Object.fromEntries(
  Object.entries(COMMAND).map(([name, command]) => [command, name as CommandName]),
);
const HEADER_BYTES = 16;
const MSIX = 0x40;
const REGION_ACCESS = 0b11;
export const REGION_MMAP = 0b100;
const REGION_CAPS = 0b1000;

/** One BAR of 16 KiB and 64 bits, its MSI-X table in the second page, and a vendor's capability. */
export const CONFIG = new Writer(256)
  .u32(0, 0x7e57_1af4)
  .u32(4, 0x0010_0000)
  .u32(8, 0xff00_0001)
  .u32(0x10, 0x4)
  .u32(0x34, MSIX)
  .u32(MSIX, 0x0002_5011)
  .u32(MSIX + 4, 0x1000)
  .u32(MSIX + 8, 0x2000)
  .u32(0x50, 0x0008_0009).bytes;

export interface ServerOptions {
  path: string;
  config?: Uint8Array;
  /** Of regions 0 to 5. */
  barBytes?: readonly number[];
  irqCounts?: readonly number[];
  capabilities?: object;
  script?: Script;
  /** In place of what it would send. */
  bend?: (bytes: Uint8Array, fds: readonly number[]) => { raw: Uint8Array; fds: readonly number[] };
}

export class ScriptedServer {
  readonly heard: Heard[] = [];
  /** What its own commands were answered: errnos. */
  readonly refusals: (number | undefined)[] = [];
  connections = 0;
  /** By region. */
  readonly bytes: readonly Uint8Array[];
  readonly #options: ServerOptions;
  readonly #listener: FdListener;
  #socket: FdSocket | undefined;

  constructor(options: ServerOptions) {
    this.#options = options;
    const { barBytes = [0x4000], config = CONFIG } = options;
    this.bytes = Array.from({ length: 9 }, (_, i) =>
      i === VFIO.configRegion ? Uint8Array.from(config) : new Uint8Array(barBytes[i] ?? 0),
    );
    this.#listener = new native.FdListener({
      path: options.path,
      replaceStale: true,
      onConnection: (fd) => this.#serve(fd),
      onStall: () => {},
    });
  }

  names(): CommandName[] {
    return this.heard.map(({ name }) => name);
  }

  last(name: CommandName): Heard | undefined {
    return this.heard.findLast((one) => one.name === name);
  }

  say(bytes: Uint8Array, fds: readonly number[] = []): void {
    const sent = this.#options.bend?.(bytes, fds) ?? { raw: bytes, fds };
    if (sent.fds.length > 0) this.#socket?.sendFds(sent.raw, sent.fds);
    else this.#socket?.write(sent.raw);
  }

  /** As if its process had been killed, and nobody listened any more. */
  die(): void {
    this.#listener.close();
    this.hangUp();
  }

  hangUp(): void {
    this.#socket?.destroy();
  }

  #serve(fd: number): void {
    this.connections++;
    const into = new Uint8Array(MESSAGE_BYTES_MAX);
    const reader = new FdMessageReader({ parse, fdsMax: 253, tooMany: () => new Error('fds') });
    const socket = new native.FdSocket(fd, {
      into,
      onData: (sizeBytes, fds) => {
        for (const message of reader.push(into.subarray(0, sizeBytes), fds ?? []))
          this.#hear(message);
      },
      onEnd: () => socket.destroy(),
      onDrain: () => {},
      onClose: () => {},
    });
    this.#socket = socket;
  }

  #hear(message: Message): void {
    const { command, payload, fds } = message;
    for (const fd of fds) closeSync(fd);
    if (message.isReply) return void this.refusals.push(message.refusal);
    const name = NAMES[command];
    if (!name) throw new Error(`The client asks ${command}`);
    this.heard.push({ name, payload: Buffer.from(payload), fdCount: fds.length });
    const reply = this.#options.script?.[name]?.(payload, message) ?? this.#reply(name, payload);
    if (reply === 'silence') return;
    if (reply instanceof Uint8Array) this.say(encode(message, reply, { isReply: true }));
    else if ('raw' in reply) this.say(reply.raw, reply.fds);
    else if ('payload' in reply)
      this.say(encode(message, reply.payload, { isReply: true }), reply.fds);
    else this.say(encode(message, new Uint8Array(0), { isReply: true, refusal: reply.errno }));
  }

  #reply(name: CommandName, payload: Uint8Array): Uint8Array {
    const asked = new Reader(payload);
    switch (name) {
      case 'version': {
        const text = JSON.stringify({ capabilities: this.#options.capabilities ?? {} });
        return new Writer(5 + text.length).u16(2, 1).ascii(4, text).bytes;
      }
      case 'getInfo':
        return info();
      case 'getRegionInfo':
        return regionInfo(asked.u32(8), this.bytes[asked.u32(8)]?.length ?? 0);
      case 'getIrqInfo':
        return irqInfo(asked.u32(8), (this.#options.irqCounts ?? [1, 0, 3])[asked.u32(8)] ?? 0);
      case 'regionRead': {
        const at = asked.u64(0);
        const bytes = this.bytes[asked.u32(8)]?.slice(at, at + asked.u32(12)) ?? [];
        return Uint8Array.from([...payload.subarray(0, 16), ...bytes]);
      }
      case 'regionWrite':
        this.bytes[asked.u32(8)]?.set(payload.subarray(16), asked.u64(0));
        return payload.slice(0, 16);
      default:
        return new Uint8Array(0);
    }
  }
}

/** Resets, and is a PCI device. */
export const info = ({ flags = 3, regions = 9, irqKinds = 5 } = {}): Uint8Array =>
  new Writer(16).u32(0, 16).u32(4, flags).u32(8, regions).u32(12, irqKinds).bytes;

export const regionInfo = (
  index: number,
  sizeBytes: number | bigint,
  { flags = REGION_ACCESS, fileOffset = 0 as number | bigint, areas = [] as number[][] } = {},
): Uint8Array => {
  const writer = new Writer(areas.length > 0 ? 48 + 16 * areas.length : 32)
    .u32(4, flags | (areas.length > 0 ? REGION_CAPS : 0))
    .u32(8, index)
    .u64(16, sizeBytes)
    .u64(24, fileOffset);
  if (areas.length === 0) return writer.bytes;
  writer.u32(12, 32).u16(32, 1).u16(34, 1).u32(40, areas.length);
  for (const [i, [offset = 0, size = 0]] of areas.entries())
    writer.u64(48 + 16 * i, offset).u64(56 + 16 * i, size);
  return writer.bytes;
};

/** A script for what one region is. */
export const forRegion =
  (index: number, reply: (payload: Uint8Array) => Reply): NonNullable<Script['getRegionInfo']> =>
  (payload) =>
    payload[8] === index ? reply(payload) : undefined;

export const irqInfo = (index: number, count: number, flags = 1): Uint8Array =>
  new Writer(16).u32(4, flags).u32(8, index).u32(12, count).bytes;

function parse(bytes: Uint8Array) {
  if (bytes.length < HEADER_BYTES) return undefined;
  const header = new Reader(bytes);
  const sizeBytes = header.u32(4);
  if (bytes.length < sizeBytes) return undefined;
  const flags = header.u32(8);
  const message = {
    ...{ id: header.u16(0), command: header.u16(2), isReply: (flags & 1) !== 0, needsReply: true },
    refusal: (flags & 0x20) === 0 ? undefined : header.u32(12),
    payload: Uint8Array.from(bytes.subarray(HEADER_BYTES, sizeBytes)),
  };
  return { message, sizeBytes };
}
