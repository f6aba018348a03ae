/** A vhost-user backend that keeps to the script of a test: real sockets, and no device behind. */
import { closeSync } from 'node:fs';
import {
  decodeU64,
  encode,
  encodeInflight,
  encodeU64,
  F_PROTOCOL_FEATURES,
  type Message,
  MessageReader,
  REQUEST,
  type RequestName,
} from '../../../src/devices/vhost-user/protocol.ts';
import { F_VERSION_1 } from '../../../src/devices/virtio/device.ts';
import { native } from '../../../src/native.ts';
import type { FdListener, FdSocket } from '../../../src/native-sockets.ts';

/** What it answers: bytes of a payload, a whole message, or nothing at all. */
type Answer = Uint8Array | { raw: Uint8Array; fds?: readonly number[] } | 'silence';
export type Script = Partial<Record<RequestName, (message: Message) => Answer>>;

export interface Heard {
  name: RequestName;
  payload: Buffer;
  fdCount: number;
}

const NAMES = Object.fromEntries(
  Object.entries(REQUEST).map(([name, request]) => [request, name as RequestName]),
);

const ignore = () => {};
const IGNORE = { onData: ignore, onEnd: ignore, onDrain: ignore, onClose: ignore };

export interface BackendOptions {
  path: string;
  /** Of the device, VERSION_1 apart. */
  features?: bigint;
  protocol?: bigint;
  config?: Uint8Array;
  script?: Script;
  /** To its own requests. */
  wantsAnswers?: true;
}

export class ScriptedBackend {
  readonly heard: Heard[] = [];
  /** What its own requests were answered. */
  readonly answers: bigint[] = [];
  connections = 0;
  readonly #options: BackendOptions;
  readonly #listener: FdListener;
  #socket: FdSocket | undefined;
  /** Where it asks by itself. */
  #requests: FdSocket | undefined;

  constructor(options: BackendOptions) {
    this.#options = options;
    this.#listener = new native.FdListener({
      path: options.path,
      replaceStale: true,
      onConnection: (fd) => this.#serve(fd),
      onStall: () => {},
    });
  }

  names(): RequestName[] {
    return this.heard.map(({ name }) => name);
  }

  last(name: RequestName): Heard | undefined {
    return this.heard.findLast((one) => one.name === name);
  }

  /** Writes to the connection for answers, whatever it is. */
  say(bytes: Uint8Array): void {
    this.#socket?.write(bytes);
  }

  /** On the connection for the backend's own requests. */
  request(
    request: number,
    payload: Uint8Array = new Uint8Array(0),
    fds: readonly number[] = [],
  ): void {
    const message = encode(request, payload, { needsReply: this.#options.wantsAnswers ?? false });
    if (fds.length > 0) this.#requests?.sendFds(message, fds);
    else this.#requests?.write(message);
  }

  /** What it is answered: 0 if it was done. */
  async ask(request: number, payload: Uint8Array, fds: readonly number[] = []): Promise<bigint> {
    const count = this.answers.length;
    this.request(request, payload, fds);
    while (this.answers.length === count) await new Promise((resolve) => setTimeout(resolve, 1));
    return this.answers[count] ?? -1n;
  }

  /** As if its process had been killed, and nobody listened any more. */
  die(): void {
    this.#listener.close();
    this.#socket?.destroy();
    this.#requests?.destroy();
  }

  #serve(fd: number): void {
    this.connections++;
    const into = new Uint8Array(4096);
    const reader = new MessageReader();
    const socket = new native.FdSocket(fd, {
      into,
      onData: (sizeBytes, fds) => {
        // A table comes with a descriptor for each of its regions.
        const [first, ...others] = fds ?? [];
        for (const other of others) closeSync(other);
        const messages = reader.push(
          into.subarray(0, sizeBytes),
          first === undefined ? [] : [first],
        );
        for (const message of messages) this.#hear(message);
      },
      onEnd: () => socket.destroy(),
      onDrain: () => {},
      onClose: () => {},
    });
    this.#socket = socket;
  }

  #hear(message: Message): void {
    const { request, payload, fds, needsReply } = message;
    const name = NAMES[request];
    if (!name) throw new Error(`The frontend asks ${request}`);
    this.heard.push({ name, payload: Buffer.from(payload), fdCount: fds.length });
    const [fd] = fds;
    if (name === 'setBackendReqFd' && fd !== undefined) this.#requests = this.#openRequests(fd);
    else if (fd !== undefined) closeSync(fd);
    const answer = this.#options.script?.[name]?.(message) ?? this.#answer(name, payload);
    if (answer === 'silence') return;
    if (answer instanceof Uint8Array)
      return void this.#socket?.write(encode(request, answer, { isReply: true }));
    if (answer) {
      if (answer.fds) this.#socket?.sendFds(answer.raw, answer.fds);
      else this.#socket?.write(answer.raw);
      return;
    }
    if (needsReply) this.#socket?.write(encode(request, encodeU64(0), { isReply: true }));
  }

  #openRequests(fd: number): FdSocket {
    const into = new Uint8Array(1024);
    const reader = new MessageReader();
    const onData = (sizeBytes: number) => {
      for (const { payload } of reader.push(into.subarray(0, sizeBytes)))
        this.answers.push(decodeU64(payload));
    };
    return new native.FdSocket(fd, { ...IGNORE, into, onData });
  }

  #answer(name: RequestName, asked: Uint8Array): Answer | undefined {
    const { features = 0n, protocol = 0n, config = new Uint8Array(0) } = this.#options;
    switch (name) {
      case 'getFeatures':
        return encodeU64(features | F_VERSION_1 | F_PROTOCOL_FEATURES);
      case 'getProtocolFeatures':
        return encodeU64(protocol);
      case 'getQueueNum':
        return encodeU64(4);
      case 'getVringBase':
        return asked;
      case 'getConfig': {
        const answer = Buffer.from(asked);
        answer.set(config.subarray(0, asked.length - 12), 12);
        return answer;
      }
      case 'getInflightFd': {
        const raw = encodeInflight({ sizeBytes: 4096n, fileOffset: 0n }, 1, 8);
        return { raw: encode(REQUEST.getInflightFd, raw, { isReply: true }), fds: [0] };
      }
      default:
        return undefined;
    }
  }
}
