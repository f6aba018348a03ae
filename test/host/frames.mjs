/**
 * The framing between the tests and the agent on the host: a type, a length, that many bytes.
 * Plain JavaScript, because the agent runs it as it is.
 */

/** One byte of type and four of length, little-endian. */
const HEAD_BYTES = 5;

export const Frame = {
  /** To the agent, first on each connection: JSON, {op: 'ping' | 'spawn' | 'connect', ...}. */
  request: 1,
  /** To the agent: bytes for the program's stdin; none of them means end of file. */
  stdin: 2,
  /** To the agent: the name of a signal. */
  kill: 3,
  /** From the agent: the request is granted; JSON. */
  granted: 10,
  /** From the agent: it is not; JSON, {code, message}. The last frame. */
  refused: 11,
  stdout: 12,
  stderr: 13,
  /** From the agent: JSON, {code, signal}. The last frame. */
  exit: 14,
};

/** @param {number} type @param {string | Uint8Array} content */
export function encodeFrame(type, content = '') {
  const bytes = Buffer.from(content);
  const head = Buffer.alloc(HEAD_BYTES);
  head.writeUInt8(type, 0);
  head.writeUInt32LE(bytes.length, 1);
  return Buffer.concat([head, bytes]);
}

/** Cuts a stream of bytes into frames. */
export class FrameReader {
  /** What is not handed out yet. */
  rest = Buffer.alloc(0);

  /** @param {Uint8Array} chunk */
  push(chunk) {
    this.rest = this.rest.length === 0 ? Buffer.from(chunk) : Buffer.concat([this.rest, chunk]);
  }

  /** The next whole frame, or undefined until more is pushed. */
  next() {
    if (this.rest.length < HEAD_BYTES) return undefined;
    const end = HEAD_BYTES + this.rest.readUInt32LE(1);
    if (this.rest.length < end) return undefined;
    const frame = { type: this.rest.readUInt8(0), content: this.rest.subarray(HEAD_BYTES, end) };
    this.rest = this.rest.subarray(end);
    return frame;
  }
}
