/**
 * A connection of vhost-user: requests go out, and each answer is awaited here, the only place
 * where anybody waits for a backend. What breaks the protocol, or takes too long, ends it.
 */
import { closeSync } from 'node:fs';
import { closeAll } from '../../fd-messages.ts';
import { native } from '../../native.ts';
import type { FdSocket } from '../../native-sockets.ts';
import { encode, type Message, MessageReader, ProtocolError } from './protocol.ts';

/** Several messages; a backend that sends more at a time is heard again in the next turn. */
const READ_BYTES = 4096;

export interface ChannelOptions {
  /**
   * The backend asked something: it is told 0, or another number if that can't be. Nothing more is
   * heard of it meanwhile. The descriptors are closed afterwards.
   */
  onRequest(message: Message): Promise<number> | number;
  /** Once, and last: why it is over. Not after `close`. */
  onLost(reason: Error): void;
}

interface Waiting {
  request: number;
  resolve(message: Message): void;
  reject(reason: Error): void;
  timer: NodeJS.Timeout;
}

export class Channel {
  readonly #options: ChannelOptions;
  readonly #into = new Uint8Array(READ_BYTES);
  readonly #reader = new MessageReader();
  readonly #socket: FdSocket;
  #waiting: Waiting | undefined;
  /** Came while a request was under way: what one read brings at most. Undefined if none is. */
  #backlog: Message[] | undefined;
  /** Set when it is over. */
  #end: Error | undefined;

  /** `fd` is a connected stream socket, ours from now on. @throws SystemError, `fd` closed. */
  constructor(fd: number, options: ChannelOptions) {
    this.#options = options;
    this.#socket = new native.FdSocket(fd, {
      into: this.#into,
      onData: (sizeBytes, fds) => this.#receive(sizeBytes, fds),
      onEnd: () => this.#lose(new Error('the backend has closed the connection')),
      onDrain: () => {},
      onClose: () => this.#lose(new Error('the connection is broken')),
    });
  }

  /** Sends a request that is not answered. @throws Error if the connection is over. */
  send(request: number, payload: Uint8Array, fds: readonly number[] = []): void {
    this.#write(encode(request, payload), fds);
  }

  /**
   * The answer to a request. One at a time.
   * @param needsReply asks for an answer where the protocol has none by itself.
   * @throws Error if the connection is over, or ends meanwhile: so it does after `timeoutMs`.
   */
  async ask(
    request: number,
    payload: Uint8Array,
    { fds = [] as readonly number[], needsReply = false, timeoutMs = 0 } = {},
  ): Promise<Message> {
    if (this.#waiting) throw new Error('an answer is awaited already');
    return new Promise((resolve, reject) => {
      const late = () => this.#lose(new Error(`no answer within ${timeoutMs} ms`));
      const timer = setTimeout(late, timeoutMs);
      this.#waiting = { request, resolve, reject, timer };
      try {
        this.#write(encode(request, payload, { needsReply }), fds);
      } catch (error) {
        this.#settle();
        reject(error);
      }
    });
  }

  /** Idempotent. */
  close(): void {
    this.#finish(new Error('the connection is closed'));
  }

  /** Ends it, for what the backend said cannot be. */
  fail(reason: Error): void {
    this.#lose(reason);
  }

  /** A backend that does not read is as good as gone: nothing is kept for it. */
  #write(bytes: Uint8Array, fds: readonly number[]): void {
    if (this.#end) throw this.#end;
    const isTaken = fds.length > 0 ? this.#socket.sendFds(bytes, fds) : this.#socket.write(bytes);
    if (!isTaken) this.#lose(new Error('the backend reads nothing'));
    if (this.#end) throw this.#end;
  }

  #receive(sizeBytes: number, fds: number[] | null | undefined): void {
    if (this.#end) {
      closeAll(fds ?? []);
      return;
    }
    try {
      if (fds === null) throw new Error('there are no descriptors left for what it sends');
      const messages = this.#reader.push(this.#into.subarray(0, sizeBytes), fds);
      for (const message of messages) this.#take(message);
    } catch (error) {
      this.#lose(error as Error);
    }
  }

  #take(message: Message): void {
    if (message.isReply && message.request === this.#waiting?.request) {
      this.#settle()?.resolve(message);
      return;
    }
    if (this.#end || message.isReply) {
      closeAll(message.fds);
      if (this.#end) return;
      throw new ProtocolError(`an answer to ${message.request}, never asked`);
    }
    if (this.#backlog) {
      this.#backlog.push(message);
      return;
    }
    this.#serve(message);
  }

  #serve(message: Message): void {
    let answer: Promise<number> | number;
    try {
      answer = this.#options.onRequest(message);
    } catch (error) {
      closeAll(message.fds);
      throw error;
    }
    if (typeof answer === 'number') {
      this.#answer(message, answer);
      return;
    }
    this.#backlog = [];
    this.#socket.pause();
    const giveUp = (error: Error) => {
      closeAll(message.fds);
      throw error;
    };
    answer
      .then((value) => this.#goOn(message, value), giveUp)
      .catch((error: Error) => this.#lose(error));
  }

  #goOn(message: Message, answer: number): void {
    const backlog = this.#backlog ?? [];
    this.#backlog = undefined;
    this.#answer(message, answer);
    for (const next of backlog) this.#take(next);
    if (!this.#backlog && !this.#end) this.#socket.resume();
  }

  #answer({ request, needsReply, fds }: Message, answer: number): void {
    closeAll(fds);
    if (!needsReply || this.#end) return;
    const payload = new Uint8Array(8);
    payload[0] = answer;
    this.#write(encode(request, payload, { isReply: true }), []);
  }

  #settle(): Waiting | undefined {
    const waiting = this.#waiting;
    this.#waiting = undefined;
    clearTimeout(waiting?.timer);
    return waiting;
  }

  #lose(reason: Error): void {
    if (this.#finish(reason)) this.#options.onLost(reason);
  }

  #finish(reason: Error): boolean {
    if (this.#end) return false;
    this.#end = reason;
    this.#reader.close();
    this.#socket.destroy();
    this.#settle()?.reject(reason);
    return true;
  }
}

/** A connection that the other end of is to be sent to a backend. */
export function openPair(options: ChannelOptions): { channel: Channel; theirs: number } {
  const [ours, theirs] = native.unixStreams.pair();
  try {
    return { channel: new Channel(ours, options), theirs };
  } catch (error) {
    closeSync(theirs);
    throw error;
  }
}
