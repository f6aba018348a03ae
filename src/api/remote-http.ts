/**
 * The client's side of the API's wire, on a connected socket that blocks: ch-remote has nothing
 * else to do. It takes the original's replies, whose status line has no reason, and ours.
 */
import { fstatSync, readSync, writeSync } from 'node:fs';
import { osError } from '../errors.ts';
import { native } from '../native.ts';
import { failure } from './read-options.ts';
import type { RemoteRequest } from './remote-commands.ts';

export interface RemoteReply {
  status: number;
  /** Undefined if the reply has none, which is not the same as an empty one. */
  body?: string;
}

const SOCKET = 'Error reading from or writing to HTTP socket';
const NOT_SENT = 'Error sending file descriptors';
const CHUNK_BYTES = 64 * 1024;

/** As much as a VM with every device there can be has to tell, many times over. */
const REPLY_BYTES_MAX = 64 * 1024 * 1024;

/** Rejects with a VmmError, its chain as it is to be printed. */
export async function exchange(socket: number, request: RemoteRequest): Promise<RemoteReply> {
  try {
    return request.fds.length === 0
      ? exchangeText(socket, request)
      : await withFds(socket, request);
  } catch (error) {
    if (error instanceof Error && 'syscall' in error) throw failure(osError(error), SOCKET);
    throw error;
  }
}

function headOf({ method, endpoint, body }: RemoteRequest): Buffer {
  const length = body === undefined ? '' : `Content-Length: ${Buffer.byteLength(body)}\r\n`;
  const first = `${method} /api/v1/${endpoint} HTTP/1.1\r\n`;
  return Buffer.from(`${first}Host: localhost\r\nAccept: */*\r\n${length}\r\n`);
}

function exchangeText(socket: number, request: RemoteRequest): RemoteReply {
  let rest = Buffer.concat([headOf(request), Buffer.from(request.body ?? '')]);
  while (rest.length > 0) rest = rest.subarray(writeSync(socket, rest));
  const reader = new ReplyReader();
  const chunk = Buffer.alloc(CHUNK_BYTES);
  for (;;) {
    const count = readSync(socket, chunk);
    if (count === 0) throw closed();
    const reply = reader.push(chunk.subarray(0, count));
    if (reply) return reply;
  }
}

/** Node by itself cannot send them: the addon does, and its socket does not block. */
function withFds(socket: number, request: RemoteRequest): Promise<RemoteReply> {
  request.fds.forEach(checkOpen);
  return new Promise((resolve, reject) => {
    const reader = new ReplyReader();
    const into = Buffer.alloc(CHUNK_BYTES);
    const onData = (sizeBytes: number) => {
      try {
        const reply = reader.push(into.subarray(0, sizeBytes));
        if (reply) resolve(reply);
      } catch (error) {
        reject(error);
      }
    };
    const onEnd = () => reject(closed());
    const stream = new native.FdSocket(socket, {
      ...{ into, onData, onEnd, onDrain: () => {} },
      onClose: onEnd,
    });
    if (stream.sendFds(headOf(request), request.fds)) stream.write(request.body ?? '');
    else reject(failure(new Error('The server does not take them'), NOT_SENT));
  });
}

function checkOpen(fd: number): void {
  try {
    fstatSync(fd);
  } catch (error) {
    throw failure(osError(error), NOT_SENT, `fd ${fd} is not open`);
  }
}

const closed = () => failure(new Error('The server has closed the connection'), SOCKET);

/** Gathers one reply. */
class ReplyReader {
  #received = Buffer.alloc(0);

  /** The reply, once all of it is there. */
  push(bytes: Uint8Array): RemoteReply | undefined {
    this.#received = Buffer.concat([this.#received, bytes]);
    const reply = parse(this.#received);
    if (!reply && this.#received.length > REPLY_BYTES_MAX)
      throw failure(new Error(`The reply has more than ${REPLY_BYTES_MAX} bytes`), SOCKET);
    return reply;
  }
}

const HEAD_END = '\r\n\r\n';

/** The reply, or undefined as long as some of it is missing. Interim ones are passed over. */
function parse(received: Buffer): RemoteReply | undefined {
  const end = received.indexOf(HEAD_END);
  if (end < 0) return undefined;
  const head = received.toString('latin1', 0, end);
  if (!head.startsWith('HTTP/')) throw new Error('HTTP output is missing protocol statement');
  const [, digits] = /^HTTP\/1\.[01] (\d{3})\b/.exec(head) ?? [];
  if (digits === undefined) throw new Error('Error parsing HTTP status code');
  const rest = received.subarray(end + HEAD_END.length);
  const status = Number(digits);
  if (status === 100) return parse(rest);
  const [, value] = /\r\ncontent-length:[ \t]*([^\r]*)/i.exec(head) ?? [];
  if (value === undefined) return { status };
  if (!/^\d+[ \t]*$/.test(value)) throw new Error('Error parsing HTTP Content-Length field');
  const length = Number(value);
  // Decoded as a whole: a character may lie across two reads.
  return rest.length < length ? undefined : { status, body: rest.toString('utf8', 0, length) };
}
