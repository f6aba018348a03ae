/**
 * Fuzz target: the API's request parser. A client controls every byte of the stream and where the
 * reads cut it; no stream may make the parser throw, hang or hoard, and no cut may change a result.
 */
import { BODY_BYTES_MAX, type Parsed, RequestParser } from '../../src/api/request-parser.ts';
import { random } from './random.ts';

const PIECES = [
  'GET /api/v1/vmm.ping HTTP/1.1\r\n',
  'PUT /api/v1/vm.create HTTP/1.0\r\n',
  'POST  HTTP/1.1\r\n',
  'Host: localhost\r\n',
  'Content-Length: 2\r\n',
  'content-length:0\r\n',
  'Content-Length: 99999999999999999999\r\n',
  'Content-Length: -1\r\n',
  'Transfer-Encoding: chunked\r\n',
  'Expect: 100-continue\r\n',
  '\r\n',
  '\n',
  '\r',
  '{}',
  '2\r\n{}\r\n',
  '0\r\n\r\n',
  'fffffffff\r\n',
  ';\t =: \0\xff',
  'x'.repeat(3000),
];

const WHOLE = [
  'GET /api/v1/vmm.ping HTTP/1.1\r\nHost: localhost\r\nAccept: */*\r\n\r\n',
  'PUT /api/v1/vm.create HTTP/1.1\r\nContent-Length: 11\r\n\r\n{"cpus":{}}',
  'PUT /a HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n4\r\n{"a"\r\n3;x\r\n:1}\r\n0\r\nT: x\r\n\r\n',
  'PUT /a HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n{}',
];

/** Mostly whole requests, some pieces out of place, few bytes changed. */
function stream(seed: number): Buffer {
  const below = random(seed);
  const pick = (from: string[]) => from[below(from.length)] ?? '';
  let text = '';
  for (let parts = 1 + below(12); parts > 0; parts--) text += pick(below(3) ? WHOLE : PIECES);
  const bytes = Buffer.from(text, 'latin1');
  for (let changes = below(4); changes > 0; changes--) bytes[below(bytes.length)] = below(256);
  return bytes;
}

/** Everything that the parser finds, given the stream in reads of the sizes that `cut` says. */
function parse(bytes: Buffer, cut: () => number): Parsed[] {
  const parser = new RequestParser();
  const found: Parsed[] = [];
  for (let at = 0; at < bytes.length; ) {
    const end = Math.min(bytes.length, at + cut());
    parser.push(bytes.subarray(at, end));
    at = end;
    for (let parsed = parser.next(); parsed; parsed = parser.next()) found.push(parsed);
    // Each takes at least a byte of the stream, or one and an invitation to go on.
    if (found.length > 2 * bytes.length) throw new Error('More found than was sent');
  }
  return found;
}

/** One input. Throws if a cut changes what is found, or a body exceeds its limit. */
export function checkOne(seed: number): void {
  const bytes = stream(seed);
  const below = random(seed ^ 0x5eed);
  const whole = JSON.stringify(parse(bytes, () => bytes.length));
  const widths = [1, 2, 1 + below(50), 1 + below(2000)];
  for (const width of widths) {
    const parsed = parse(bytes, () => 1 + below(width));
    if (JSON.stringify(parsed) !== whole) throw new Error(`Seed ${seed}: cuts change the requests`);
    for (const one of parsed)
      if (one.kind === 'request' && one.body.length > BODY_BYTES_MAX)
        throw new Error(`Seed ${seed}: a body of ${one.body.length} bytes`);
  }
}
