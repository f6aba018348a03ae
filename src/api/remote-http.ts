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

/** As much as a VM with every device there can be has to tell, many times over. */
const REPLY_BYTES_MAX = 64 * 1024 * 1024;

/** @throws VmmError, its chain as it is to be printed. */
export function exchange(socket: number, request: RemoteRequest): RemoteReply {
  try {
    send(socket, request);
    return receive(socket);
  } catch (error) {
    if (error instanceof Error && 'syscall' in error) throw failure(osError(error), SOCKET);
    throw error;
  }
}

function send(socket: number, { method, endpoint, body, fds }: RemoteRequest): void {
  const length = body === undefined ? '' : `Content-Length: ${Buffer.byteLength(body)}\r\n`;
  const head = `${method} /api/v1/${endpoint} HTTP/1.1\r\nHost: localhost\r\nAccept: */*\r\n${length}\r\n`;
  if (fds.length === 0) writeAll(socket, head);
  else sendFds(socket, Buffer.from(head), fds);
  writeAll(socket, body ?? '');
}

function writeAll(socket: number, text: string): void {
  let rest = Buffer.from(text);
  while (rest.length > 0) rest = rest.subarray(writeSync(socket, rest));
}

function sendFds(socket: number, bytes: Uint8Array, fds: readonly number[]): void {
  for (const fd of fds)
    try {
      fstatSync(fd);
    } catch (error) {
      throw failure(osError(error), 'Error sending file descriptors', `fd ${fd} is not open`);
    }
  const ignore = () => {};
  const handlers = { onData: ignore, onEnd: ignore, onDrain: ignore, onClose: ignore };
  const sender = new native.FdSocket(socket, { into: new Uint8Array(1), ...handlers });
  if (!sender.sendFds(bytes, fds))
    throw failure(new Error('The server does not take them'), 'Error sending file descriptors');
}

/** Reads one reply, and not beyond it. */
function receive(socket: number): RemoteReply {
  const chunk = Buffer.alloc(64 * 1024);
  let received = Buffer.alloc(0);
  for (;;) {
    const reply = parse(received);
    if (reply) return reply;
    if (received.length > REPLY_BYTES_MAX)
      throw failure(new Error(`The reply has more than ${REPLY_BYTES_MAX} bytes`), SOCKET);
    const count = readSync(socket, chunk);
    if (count === 0) throw failure(new Error('The server has closed the connection'), SOCKET);
    received = Buffer.concat([received, chunk.subarray(0, count)]);
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
