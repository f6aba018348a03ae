/**
 * HTTP/1.1 requests out of a byte stream (RFC 9112). Pure: bytes in, requests out, and how the
 * bytes were cut into reads makes no difference.
 *
 * Nothing here grows with what a client claims, only with what it sent, and that up to the limits.
 */

/** Longest request line or header line; longer than any path that a client has use for. */
const LINE_BYTES_MAX = 8 * 1024;
/** Request line and headers together; likewise all trailers of a chunked body. */
const HEAD_BYTES_MAX = 64 * 1024;
/** Largest body. A VmConfig with every device that a machine can hold needs a tenth of it. */
export const BODY_BYTES_MAX = 4 * 1024 * 1024;

const FIRST_BODY_BYTES = 4 * 1024;
const LF = 0x0a;
const TOKEN = /^[!#$%&'*+.^_`|~0-9A-Za-z-]+$/;

export type Parsed =
  /** `last`: the client asks for nothing more on this connection; what follows is dropped. */
  | { kind: 'request'; method: string; target: string; body: Buffer; last: boolean }
  /** The client holds its body back until it is told to go on. */
  | { kind: 'continue' }
  /** Not HTTP as we take it. `fatal`: nobody knows where the next request starts, or none does. */
  | { kind: 'refused'; message: string; fatal: boolean };

type State =
  | 'start'
  | 'headers'
  | 'body'
  | 'chunk-size'
  | 'chunk'
  | 'chunk-end'
  | 'trailers'
  | 'dead';

/** Ends the stream: what follows has no known frame. */
class FramingError extends Error {}

const invalidHeader = (key: string, value: string): string =>
  `Invalid header. Reason: Invalid value. Key:${key}; Value: ${value.slice(0, 100)}`;

/** Bytes of one body, in a buffer that doubles as they come. */
class Body {
  #bytes = Buffer.alloc(0);
  #length = 0;

  get length(): number {
    return this.#length;
  }

  append(bytes: Uint8Array): void {
    const needed = this.#length + bytes.length;
    if (needed > this.#bytes.length) {
      const grown = Buffer.allocUnsafeSlow(Math.max(needed, 2 * this.#length, FIRST_BODY_BYTES));
      grown.set(this.#bytes.subarray(0, this.#length));
      this.#bytes = grown;
    }
    this.#bytes.set(bytes, this.#length);
    this.#length = needed;
  }

  take(): Buffer {
    return this.#bytes.subarray(0, this.#length);
  }
}

export class RequestParser {
  #input: Buffer = Buffer.alloc(0);
  #at = 0;
  #state: State = 'start';
  #line = '';
  #headBytes = 0;
  #bodyLeft = 0;

  #method = '';
  #target = '';
  #contentLength: number | undefined;
  #chunked = false;
  #expectsContinue = false;
  #last = false;
  #body = new Body();
  /** The first thing wrong with a request whose end is still known. */
  #fault: string | undefined;
  #refused: string | undefined;

  /** Takes what was read. Call `next` until it returns undefined before more is pushed. */
  push(bytes: Buffer): void {
    const rest = this.#input.subarray(this.#at);
    this.#input = rest.length === 0 ? bytes : Buffer.concat([rest, bytes]);
    this.#at = 0;
  }

  /** Ends the stream where it is: what came beside its bytes is not to be taken. */
  refuse(message: string): void {
    this.#refused = message;
  }

  /** The next thing in the stream; undefined: more bytes are needed. Never throws. */
  next(): Parsed | undefined {
    try {
      if (this.#refused !== undefined) throw new FramingError(this.#refused);
      for (;;) {
        const before = this.#state;
        const parsed = this.#step();
        if (parsed) return parsed;
        if (this.#state === before && this.#at === this.#input.length) return undefined;
      }
    } catch (error) {
      if (!(error instanceof FramingError)) throw error;
      this.#refused = undefined;
      this.#state = 'dead';
      return { kind: 'refused', message: error.message, fatal: true };
    }
  }

  #step(): Parsed | undefined {
    switch (this.#state) {
      case 'body':
      case 'chunk':
        return this.#takeBody();
      case 'dead':
        this.#at = this.#input.length;
        return undefined;
      default: {
        const line = this.#takeLine();
        return line === undefined ? undefined : this.#onLine(line);
      }
    }
  }

  #onLine(line: string): Parsed | undefined {
    switch (this.#state) {
      case 'start':
        return this.#onRequestLine(line);
      case 'headers':
        return line === '' ? this.#onHeadEnd() : this.#onHeader(line);
      case 'chunk-size':
        return this.#onChunkSize(line);
      case 'chunk-end':
        if (line !== '') throw new FramingError('Invalid request.');
        this.#state = 'chunk-size';
        return undefined;
      default:
        return line === '' ? this.#finish() : undefined; // a trailer says nothing that we need
    }
  }

  /** A line without its end; a bare LF ends one too (RFC 9112 §2.2). */
  #takeLine(): string | undefined {
    const found = this.#input.indexOf(LF, this.#at);
    const end = found < 0 ? this.#input.length : found;
    this.#headBytes += end - this.#at;
    const stop = Math.min(end, this.#at + LINE_BYTES_MAX + 1); // more is too long anyway
    this.#line += this.#input.toString('latin1', this.#at, stop);
    if (this.#line.length > LINE_BYTES_MAX || this.#headBytes > HEAD_BYTES_MAX)
      throw new FramingError('Invalid request.');
    this.#at = found < 0 ? end : found + 1;
    if (found < 0) return undefined;

    const line = this.#line.endsWith('\r') ? this.#line.slice(0, -1) : this.#line;
    this.#line = '';
    return line;
  }

  #onRequestLine(line: string): undefined {
    if (line === '') {
      this.#headBytes = 0; // blank lines between requests, RFC 9112 §2.2
      return;
    }
    this.#state = 'headers';
    const [method = '', target = '', version, ...rest] = line.split(' ');
    this.#method = method;
    this.#target = target;
    if (version === undefined || rest.length > 0) this.#fault = 'Invalid request.';
    else if (!TOKEN.test(method)) this.#fault = 'Invalid HTTP Method: Unsupported HTTP method.';
    else if (target === '') this.#fault = 'Invalid URI: Empty URI not allowed.';
    else if (version !== 'HTTP/1.1' && version !== 'HTTP/1.0')
      this.#fault = 'Invalid HTTP Version: Unsupported HTTP version.';
  }

  #onHeader(line: string): undefined {
    const colon = line.indexOf(':');
    const name = line.slice(0, colon);
    if (colon < 0 || !TOKEN.test(name)) {
      this.#fault ??= `Invalid header. Reason: Header is incorrectly formatted. Key: ${line.slice(0, 100)}`;
      return;
    }
    const value = line.slice(colon + 1).trim();
    switch (name.toLowerCase()) {
      case 'content-length':
        this.#onContentLength(value);
        break;
      case 'transfer-encoding':
        if (value.toLowerCase() === 'chunked') this.#chunked = true;
        else if (value.toLowerCase() !== 'identity')
          throw new FramingError(invalidHeader('Transfer-Encoding', value));
        break;
      case 'expect':
        this.#expectsContinue = value.toLowerCase() === '100-continue';
        break;
      case 'connection': // RFC 9112 §9.6
        this.#last ||= /(^|[, ])close($|[, ])/i.test(value);
        break;
    }
  }

  #onContentLength(value: string): void {
    const length = Number(value);
    const valid = /^\d+$/.test(value) && Number.isSafeInteger(length);
    if (!valid || (this.#contentLength ?? length) !== length)
      throw new FramingError(invalidHeader('Content-Length', value));
    this.#contentLength = length;
  }

  #onHeadEnd(): Parsed | undefined {
    const length = this.#contentLength ?? 0;
    if (this.#chunked && this.#contentLength !== undefined)
      throw new FramingError(
        'Invalid request. Both Content-Length and Transfer-Encoding are given',
      );
    this.#expectBody(length);
    if (this.#chunked) this.#startChunkHead();
    else if (length === 0) return this.#finish();
    else this.#state = 'body';
    return this.#expectsContinue ? { kind: 'continue' } : undefined;
  }

  #onChunkSize(line: string): undefined {
    const [digits = ''] = line.split(';');
    const hex = digits.trim();
    if (!/^[0-9a-f]{1,12}$/i.test(hex)) throw new FramingError('Invalid request.');
    const size = Number.parseInt(hex, 16);
    this.#expectBody(size);
    this.#headBytes = 0;
    this.#state = size === 0 ? 'trailers' : 'chunk';
  }

  #expectBody(sizeBytes: number): void {
    const total = this.#body.length + sizeBytes;
    if (total > BODY_BYTES_MAX)
      throw new FramingError(
        `Request payload with size ${total} is larger than the limit of ${BODY_BYTES_MAX} allowed by server.`,
      );
    this.#bodyLeft = sizeBytes;
  }

  #takeBody(): Parsed | undefined {
    const end = Math.min(this.#input.length, this.#at + this.#bodyLeft);
    this.#body.append(this.#input.subarray(this.#at, end));
    this.#bodyLeft -= end - this.#at;
    this.#at = end;
    if (this.#bodyLeft > 0) return undefined;
    if (this.#state === 'body') return this.#finish();
    this.#startChunkHead();
    this.#state = 'chunk-end';
    return undefined;
  }

  #startChunkHead(): void {
    this.#state = 'chunk-size';
    this.#headBytes = 0;
  }

  #finish(): Parsed {
    const parsed: Parsed = this.#fault
      ? { kind: 'refused', message: this.#fault, fatal: this.#last }
      : {
          kind: 'request',
          method: this.#method,
          target: this.#target,
          body: this.#body.take(),
          last: this.#last,
        };
    this.#state = this.#last ? 'dead' : 'start';
    this.#headBytes = 0;
    this.#contentLength = undefined;
    this.#chunked = false;
    this.#expectsContinue = false;
    this.#fault = undefined;
    this.#body = new Body();
    return parsed;
  }
}
