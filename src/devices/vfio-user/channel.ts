/**
 * A connection of vfio-user. Commands go out, several at a time, and their answers are awaited
 * here. What breaks the protocol, or takes too long, ends it.
 */
import { closeAll } from '../../fd-messages.ts';
import { native } from '../../native.ts';
import type { FdSocket } from '../../native-sockets.ts';
import {
  COMMAND,
  type CommandName,
  encode,
  type Message,
  MessageReader,
  ProtocolError,
} from './protocol.ts';

/** A guest waits for a register no longer than this. */
const ANSWER_TIMEOUT_MS = 5000;
const READ_BYTES = 4096;
const ID_MASK = 0xffff;
/** More than vCPUs and verbs can have under way: so none has the id of another. */
const WAITING_MAX = 1024;

/** What the server asks of us, which we do not do: it has all memory to map. */
const REFUSED: readonly number[] = [COMMAND.dmaRead, COMMAND.dmaWrite];
const ENOTSUP = 95;
const NOTHING = new Uint8Array(0);
const DEAF = 'the server reads nothing';

/** The server says no to a command. The connection goes on. */
export class RefusedError extends Error {}

export interface Answer {
  payload: Uint8Array;
  /** The caller's to close. */
  fds: readonly number[];
}

interface Waiting {
  name: CommandName;
  mayHaveFds: boolean;
  resolve(answer: Answer): void;
  reject(reason: Error): void;
  timer: NodeJS.Timeout;
}

export class Channel {
  readonly #onLost: (reason: Error) => void;
  readonly #into = new Uint8Array(READ_BYTES);
  readonly #reader = new MessageReader();
  readonly #socket: FdSocket;
  readonly #waiting = new Map<number, Waiting>();
  #nextId = 0;
  /** Set when it is over. */
  #end: Error | undefined;

  /**
   * @param fd is a connected stream socket, ours from now on.
   * @param onLost is told once, and last, why it is over; not after `close`.
   * @throws SystemError, `fd` closed.
   */
  constructor(fd: number, onLost: (reason: Error) => void) {
    this.#onLost = onLost;
    this.#socket = new native.FdSocket(fd, {
      into: this.#into,
      onData: (sizeBytes, fds) => this.#receive(sizeBytes, fds),
      onEnd: () => this.fail(new Error('the server has closed the connection')),
      onDrain: () => {},
      onClose: () => this.fail(new Error('the connection is broken')),
    });
  }

  /**
   * Sends a command, and resolves with its answer.
   * @throws RefusedError if the server says no; Error if the connection is over, or ends meanwhile:
   *   so it does after `ANSWER_TIMEOUT_MS`.
   */
  ask(
    name: CommandName,
    payload: Uint8Array = NOTHING,
    { fds = [] as readonly number[], mayHaveFds = false } = {},
  ): Promise<Answer> {
    return new Promise((resolve, reject) => {
      if (this.#end) throw this.#end;
      if (this.#waiting.size >= WAITING_MAX) throw new Error('too much is under way');
      while (this.#waiting.has(this.#nextId)) this.#nextId = (this.#nextId + 1) & ID_MASK;
      const id = this.#nextId;
      this.#nextId = (id + 1) & ID_MASK;
      const late = () =>
        this.fail(new Error(`no answer to ${name} within ${ANSWER_TIMEOUT_MS} ms`));
      const timer = setTimeout(late, ANSWER_TIMEOUT_MS);
      this.#waiting.set(id, { name, mayHaveFds, resolve, reject, timer });
      const message = encode({ id, command: COMMAND[name] }, payload);
      // What it does not take now is kept: it is not more than what is under way.
      if (fds.length === 0) this.#socket.write(message);
      else if (!this.#socket.sendFds(message, fds)) this.fail(new Error(DEAF));
    });
  }

  /** Idempotent. */
  close(): void {
    this.#finish(new Error('the connection is closed'));
  }

  /** Ends it, for what the server said cannot be. Nothing happens once it is over. */
  fail(reason: Error): void {
    if (this.#finish(reason)) this.#onLost(reason);
  }

  #receive(sizeBytes: number, fds: number[] | null | undefined): void {
    if (this.#end) {
      closeAll(fds ?? []);
      return;
    }
    try {
      if (fds === null) throw new Error('there are no descriptors left for what it sends');
      const messages = this.#reader.push(this.#into.subarray(0, sizeBytes), fds);
      for (const message of messages) this.#hear(message);
    } catch (error) {
      this.fail(error as Error);
    }
  }

  /** Descriptors that it does not hand on are closed. */
  #hear(message: Message): void {
    const isTaken = !this.#end && this.#take(message);
    if (!isTaken) closeAll(message.fds);
  }

  /** Whether its descriptors are somebody's now. */
  #take(message: Message): boolean {
    const { isReply, command, fds, refusal } = message;
    const waiting = isReply ? this.#waiting.get(message.id) : undefined;
    if (isReply && COMMAND[waiting?.name ?? 'dmaRead'] !== command)
      return this.#break(`an answer to command ${command}, never asked`);
    if (fds.length > 0 && !waiting?.mayHaveFds)
      return this.#break(`${fds.length} descriptors that nobody asked for`);
    if (!waiting) return this.#refuse(message);
    this.#waiting.delete(message.id);
    clearTimeout(waiting.timer);
    if (refusal === undefined) waiting.resolve(message);
    else waiting.reject(new RefusedError(`the server refuses ${waiting.name}, errno ${refusal}`));
    return refusal === undefined;
  }

  #break(how: string): false {
    this.fail(new ProtocolError(how));
    return false;
  }

  /** A server that does not read its answers is as good as gone: they are not kept for it. */
  #refuse(message: Message): false {
    const { command, needsReply } = message;
    if (!REFUSED.includes(command)) return this.#break(`command ${command}, none of a server's`);
    const refusal = encode(message, NOTHING, { isReply: true, refusal: ENOTSUP });
    if (needsReply && !this.#socket.write(refusal)) this.fail(new Error(DEAF));
    return false;
  }

  #finish(reason: Error): boolean {
    if (this.#end) return false;
    this.#end = reason;
    this.#reader.close();
    this.#socket.destroy();
    for (const { timer, reject } of this.#waiting.values()) {
      clearTimeout(timer);
      reject(reason);
    }
    this.#waiting.clear();
    return true;
  }
}
