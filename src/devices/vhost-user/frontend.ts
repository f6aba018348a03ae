/**
 * The conversation with a backend over one connection: who can what, where RAM is, which queues
 * run. It knows no device. Every method but `close` rejects when the connection is over, and a
 * backend that breaks the protocol, refuses or is late ends it.
 */
import { closeSync } from 'node:fs';
import { closeAll } from '../../fd-messages.ts';
import type { SharedQueue, SharedRegion } from '../../native-vhost.ts';
import { Channel, openPair } from './channel.ts';
import {
  BACKEND_REQUEST,
  decodeConfig,
  decodeInflight,
  decodeU64,
  decodeVring,
  encodeConfig,
  encodeInflight,
  encodeMemTable,
  encodeU64,
  encodeVring,
  encodeVringAddr,
  F_PROTOCOL_FEATURES,
  type Inflight,
  type Message,
  PROTOCOL,
  ProtocolError,
  REQUEST,
  type RequestName,
} from './protocol.ts';
import type { SharedMemory } from './shared-memory.ts';

/** For an answer; to stop a queue, a backend may have requests to finish. */
const ANSWER_TIMEOUT_MS = 5000;

/** The number of a queue has eight bits in the messages that bring its eventfds. */
const QUEUES_MAX = 256;

const NOTHING = new Uint8Array(0);

export interface FrontendOptions {
  /** The backend's configuration space has changed by itself. */
  onConfigChanged(): void;
  /** Once, and last. Not after `close`. */
  onLost(reason: Error): void;
  /** What the backend may put files into, if the device has any such. */
  sharedMemory?: SharedMemory | undefined;
}

/** A note of requests that are under way, which outlives the connection. */
export interface InflightNote extends Inflight {
  fd: number;
  queueCount: number;
  queueSize: number;
}

interface FrontendParts {
  features: bigint;
  queuesMax: number;
  protocol: bigint;
  channel: Channel;
  requests: Channel | undefined;
}

export class Frontend {
  /** What the backend offers, without the bits of the protocol. */
  readonly features: bigint;
  readonly queuesMax: number;
  readonly #protocol: bigint;
  readonly #channel: Channel;
  readonly #requests: Channel | undefined;

  /** Of a conversation that has begun: see `open`. */
  constructor(parts: FrontendParts) {
    this.features = parts.features;
    this.queuesMax = parts.queuesMax;
    this.#protocol = parts.protocol;
    this.#channel = parts.channel;
    this.#requests = parts.requests;
  }

  /**
   * Agrees on what both can.
   * @param fd is a connection, ours from now on.
   * @throws Error if who is at its other end is no backend.
   */
  static async open(fd: number, options: FrontendOptions): Promise<Frontend> {
    const onRequest = () => {
      throw new ProtocolError('a request on the connection for answers');
    };
    const { onLost } = options;
    const channel = new Channel(fd, { onRequest, onLost });
    try {
      return await negotiate(channel, options);
    } catch (error) {
      channel.close();
      throw error;
    }
  }

  get hasConfig(): boolean {
    return (this.#protocol & PROTOCOL.config) !== 0n;
  }

  get hasInflight(): boolean {
    return (this.#protocol & PROTOCOL.inflight) !== 0n;
  }

  /** The first `sizeBytes` of the configuration space; undefined if it has not got them. */
  async config(sizeBytes: number): Promise<Uint8Array | undefined> {
    if (!this.hasConfig || sizeBytes === 0) return undefined;
    const payload = encodeConfig(0, new Uint8Array(sizeBytes));
    const answer = await ask(this.#channel, 'getConfig', payload);
    return this.#checked(() => decodeConfig(answer.payload, sizeBytes));
  }

  setConfig(offset: number, bytes: Uint8Array): Promise<void> {
    return this.#tell('setConfig', encodeConfig(offset, bytes));
  }

  /** What the driver accepted, and where RAM is. Before queues start. */
  async begin(features: bigint, regions: readonly SharedRegion[]): Promise<void> {
    await this.#tell('setFeatures', encodeU64(features | F_PROTOCOL_FEATURES));
    await this.setMemory(regions);
  }

  /** Where RAM is, also while queues run: nobody has used what is new before this resolves. */
  async setMemory(regions: readonly SharedRegion[]): Promise<void> {
    const { payload, fds } = encodeMemTable(regions);
    await this.#tell('setMemTable', payload, fds);
  }

  /** A fresh note for queues of at most `queueSize`. Its descriptor is the caller's. */
  async inflightNote(queueCount: number, queueSize: number): Promise<InflightNote> {
    const none = encodeInflight({ sizeBytes: 0n, fileOffset: 0n }, queueCount, queueSize);
    const answer = await ask(this.#channel, 'getInflightFd', none, 1);
    const [fd = -1] = answer.fds;
    try {
      return { ...this.#checked(() => decodeInflight(answer.payload)), fd, queueCount, queueSize };
    } catch (error) {
      closeSync(fd);
      throw error;
    }
  }

  /** Before queues start: what the note says was begun is finished. */
  setInflight(note: InflightNote): Promise<void> {
    return this.#tell('setInflightFd', encodeInflight(note, note.queueCount, note.queueSize), [
      note.fd,
    ]);
  }

  /** The queue runs, from the request at `base` on; a kick that came before is not lost. */
  async startQueue(n: number, queue: SharedQueue, base: number, isEnabled: boolean): Promise<void> {
    await this.#tell('setVringNum', encodeVring(n, queue.size));
    await this.#tell('setVringBase', encodeVring(n, base));
    await this.#tell('setVringAddr', encodeVringAddr(n, queue));
    await this.#tell('setVringCall', encodeU64(n), [queue.irqFd]);
    await this.#tell('setVringKick', encodeU64(n), [queue.kickFd]);
    await this.enableQueue(n, isEnabled);
    queue.kick();
  }

  /** A queue that runs and is not enabled takes nothing of what matters. */
  enableQueue(n: number, isEnabled: boolean): Promise<void> {
    return this.#tell('setVringEnable', encodeVring(n, isEnabled ? 1 : 0));
  }

  /** Nothing happens if the backend does not care. */
  async setMtu(bytes: number): Promise<void> {
    if ((this.#protocol & PROTOCOL.netMtu) !== 0n) await this.#tell('netSetMtu', encodeU64(bytes));
  }

  /** Resolves when what was sent has been done, or has ended the connection. */
  async settle(): Promise<void> {
    await ask(this.#channel, 'getFeatures', NOTHING);
  }

  /** The queue takes no more requests. Returns the index of the first that it has not taken. */
  async stopQueue(n: number): Promise<number> {
    const answer = await ask(this.#channel, 'getVringBase', encodeVring(n, 0));
    return this.#checked(() => decodeVring(answer.payload, n)) & 0xffff;
  }

  /** Idempotent. */
  close(): void {
    this.#channel.close();
    this.#requests?.close();
  }

  /** A request that has no answer, but that it was done where the backend can tell. */
  async #tell(name: RequestName, payload: Uint8Array, fds: readonly number[] = []): Promise<void> {
    await tell(this.#channel, this.#protocol, name, payload, fds);
  }

  /** What a decoder says; if it says no, the connection is over. */
  #checked<T>(decode: () => T): T {
    return checked(this.#channel, decode);
  }
}

async function negotiate(channel: Channel, options: FrontendOptions): Promise<Frontend> {
  const u64 = async (name: RequestName) => {
    const { payload } = await ask(channel, name, NOTHING);
    return checked(channel, () => decodeU64(payload));
  };
  const features = await u64('getFeatures');
  if ((features & F_PROTOCOL_FEATURES) === 0n)
    throw new ProtocolError('the backend is too old: it has no protocol features');
  const protocol = (await u64('getProtocolFeatures')) & knownFeatures(options);
  channel.send(REQUEST.setProtocolFeatures, encodeU64(protocol));
  channel.send(REQUEST.setOwner, NOTHING);
  const queuesMax = (protocol & PROTOCOL.mq) === 0n ? 1 : Number(await u64('getQueueNum'));
  const requests =
    (protocol & PROTOCOL.backendReq) === 0n
      ? undefined
      : await giveRequestChannel(channel, protocol, options);
  return new Frontend({
    ...{ features: features & ~F_PROTOCOL_FEATURES, queuesMax: Math.min(queuesMax, QUEUES_MAX) },
    ...{ protocol, channel, requests },
  });
}

function knownFeatures({ sharedMemory }: FrontendOptions): bigint {
  const known = Object.values(PROTOCOL).reduce((all, bit) => all | bit, 0n);
  return sharedMemory ? known : known & ~(PROTOCOL.backendSendFd | PROTOCOL.sharedMemory);
}

/** The connection on which the backend asks; what goes wrong there ends both. */
async function giveRequestChannel(
  channel: Channel,
  protocol: bigint,
  { onConfigChanged, sharedMemory }: FrontendOptions,
): Promise<Channel> {
  const { channel: requests, theirs } = openPair({
    onRequest: (message) => {
      if (message.request !== BACKEND_REQUEST.configChanged)
        return sharedMemory?.serve(message, protocol) ?? 1;
      onConfigChanged();
      return 0;
    },
    onLost: (reason) => channel.fail(reason),
  });
  try {
    await tell(channel, protocol, 'setBackendReqFd', NOTHING, [theirs]);
    return requests;
  } catch (error) {
    requests.close();
    throw error;
  } finally {
    closeSync(theirs);
  }
}

async function tell(
  channel: Channel,
  protocol: bigint,
  name: RequestName,
  payload: Uint8Array,
  fds: readonly number[],
): Promise<void> {
  const request = REQUEST[name];
  if ((protocol & PROTOCOL.replyAck) === 0n) return channel.send(request, payload, fds);
  const answer = await ask(channel, name, payload, 0, { fds, needsReply: true });
  checked(channel, () => {
    if (decodeU64(answer.payload) !== 0n) throw new Error(`the backend refuses ${name}`);
  });
}

/** The answer, with as many descriptors as it must have. */
async function ask(
  channel: Channel,
  name: RequestName,
  payload: Uint8Array,
  fdCount = 0,
  options: { fds?: readonly number[]; needsReply?: boolean } = {},
): Promise<Message> {
  const timeoutMs = ANSWER_TIMEOUT_MS;
  const answer = await channel.ask(REQUEST[name], payload, { ...options, timeoutMs });
  if (answer.fds.length === fdCount) return answer;
  closeAll(answer.fds);
  return checked(channel, () => {
    throw new ProtocolError(`${answer.fds.length} descriptors with the answer to ${name}`);
  });
}

function checked<T>(channel: Channel, decode: () => T): T {
  try {
    return decode();
  } catch (error) {
    channel.fail(error as Error);
    throw error;
  }
}
