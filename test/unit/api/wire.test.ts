import { mkdtempSync, rmSync } from 'node:fs';
import { connect, type Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { asciiJson, type WireHandler, WireServer } from '../../../src/api/wire.ts';

const OK = (body: string) =>
  'HTTP/1.1 200 \r\nServer: Cloud Hypervisor API\r\nConnection: keep-alive\r\n' +
  `Content-Type: application/json\r\nContent-Length: ${body.length}\r\n\r\n${body}`;

const REFUSED = (message: string) => OK(JSON.stringify({ error: message })).replace('200', '400');
const CONTINUE = 'HTTP/1.1 100 \r\nServer: Cloud Hypervisor API\r\nConnection: keep-alive\r\n\r\n';

let directory: string;
let path: string;
let server: WireServer | undefined;
const sockets: Socket[] = [];

beforeEach(() => {
  directory = mkdtempSync(join(tmpdir(), 'wire-'));
  path = join(directory, 'api.sock');
});

afterEach(async () => {
  for (const socket of sockets.splice(0)) socket.destroy();
  await server?.close();
  rmSync(directory, { recursive: true });
});

/** Answers with what it understood: method, target and body. */
const echo: WireHandler = ({ method, url, body }, reply) => {
  reply.writeHead(200);
  reply.end(`${method} ${url} ${body}`);
};

async function serve(handler: WireHandler = echo): Promise<void> {
  server = new WireServer(handler);
  await server.listen({ path });
}

/** A client that collects all it is sent. */
class Client {
  received = '';
  ended = false;
  readonly socket: Socket;

  constructor() {
    this.socket = connect({ path, allowHalfOpen: true });
    this.socket.on('data', (bytes) => {
      this.received += bytes.toString('latin1');
    });
    this.socket.on('end', () => {
      this.ended = true;
    });
    this.socket.on('error', () => {});
    sockets.push(this.socket);
  }

  send(text: string): this {
    this.socket.write(text, 'latin1');
    return this;
  }

  async sees(text: string): Promise<void> {
    await expect.poll(() => this.received, { interval: 1 }).toBe(text);
  }
}

test('a reply has the status line and headers that clients match, and no reason phrase', async () => {
  await serve();

  const client = new Client().send('GET /a HTTP/1.1\r\nHost: localhost\r\n\r\n');

  await client.sees(OK('GET /a '));
});

test('204 has no header that speaks of a body', async () => {
  await serve((_request, reply) => {
    reply.writeHead(204);
    reply.end();
  });

  const client = new Client().send('PUT /a HTTP/1.1\r\n\r\n');

  await client.sees(
    'HTTP/1.1 204 \r\nServer: Cloud Hypervisor API\r\nConnection: keep-alive\r\n\r\n',
  );
});

test('an empty error says so, and which methods are allowed', async () => {
  await serve((_request, reply) => {
    reply.writeHead(405, { allow: 'PUT' });
    reply.end();
  });

  const client = new Client().send('GET /a HTTP/1.1\r\n\r\n');

  await expect.poll(() => client.received).toContain('405 ');
  expect(client.received).toContain('Allow: PUT\r\n');
  expect(client.received).toContain('Content-Length: 0\r\n\r\n');
});

test.each([
  ['one byte a write', [...'PUT /a HTTP/1.1\r\nContent-Length: 2\r\n\r\n{}'], [OK('PUT /a {}')]],
  [
    'two requests in one write',
    ['PUT /a HTTP/1.1\r\nContent-Length: 2\r\n\r\n{}GET /b HTTP/1.1\r\n\r\n'],
    [OK('PUT /a {}'), OK('GET /b ')],
  ],
  ['lower-case header names', ['PUT /a HTTP/1.1\r\ncontent-length:1\r\n\r\n1'], [OK('PUT /a 1')]],
  ['HTTP/1.0 without Host', ['GET /a HTTP/1.0\r\n\r\n'], [OK('GET /a ')]],
  ['an absolute URI', ['GET http://localhost/a HTTP/1.1\r\n\r\n'], [OK('GET http://localhost/a ')]],
  ['lines that end in LF alone', ['GET /a HTTP/1.1\n\n'], [OK('GET /a ')]],
  ['blank lines before a request', ['\r\n\r\nGET /a HTTP/1.1\r\n\r\n'], [OK('GET /a ')]],
  [
    'an equal Content-Length twice',
    ['PUT / HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\n1'],
    [OK('PUT / 1')],
  ],
  [
    'a header of 2000 bytes',
    [`GET /a HTTP/1.1\r\nX: ${'x'.repeat(2000)}\r\n\r\n`],
    [OK('GET /a ')],
  ],
  [
    'Expect: 100-continue',
    ['PUT /a HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n', '{}'],
    [CONTINUE, OK('PUT /a {}')],
  ],
  [
    'a chunked body, and one with a length after it',
    [
      'PUT /a HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n1;x=y\r\nd\r\n0\r\nX: y\r\n\r\n',
      'PUT /b HTTP/1.1\r\nContent-Length: 1\r\n\r\n1',
    ],
    [OK('PUT /a abcd'), OK('PUT /b 1')],
  ],
  [
    'an empty chunked body held back for 100',
    ['PUT /a HTTP/1.1\r\nTransfer-Encoding: chunked\r\nExpect: 100-continue\r\n\r\n', '0\r\n\r\n'],
    [CONTINUE, OK('PUT /a ')],
  ],
])('%s is understood', async (_name, writes, answers) => {
  await serve();

  const client = new Client();
  for (const text of writes) {
    client.send(text);
    await new Promise(setImmediate); // so that each is a read of its own
  }

  await client.sees(answers.join(''));
});

test.each([
  ['garbage', '\x16\x03\x01\x02\r\n\r\n', 'Invalid request.'],
  ['a request line without version', 'GET /a\r\n\r\n', 'Invalid request.'],
  ['HTTP/2.0', 'GET /a HTTP/2.0\r\n\r\n', 'Invalid HTTP Version: Unsupported HTTP version.'],
  [
    'a method that is no token',
    'G@T /a HTTP/1.1\r\n\r\n',
    'Invalid HTTP Method: Unsupported HTTP method.',
  ],
  ['an empty URI', 'GET  HTTP/1.1\r\n\r\n', 'Invalid URI: Empty URI not allowed.'],
  [
    'a header without colon',
    'GET /a HTTP/1.1\r\nFoo\r\n\r\n',
    'Invalid header. Reason: Header is incorrectly formatted. Key: Foo',
  ],
  [
    'a faulty request with a body',
    'PUT /a HTTP/3\r\nContent-Length: 2\r\n\r\n{}',
    'Invalid HTTP Version: Unsupported HTTP version.',
  ],
])('%s is refused, and the connection goes on', async (_name, text, message) => {
  await serve();

  const client = new Client().send(text).send('GET /b HTTP/1.1\r\n\r\n');

  await client.sees(REFUSED(message) + OK('GET /b '));
});

const INVALID = (key: string, value: string) =>
  `Invalid header. Reason: Invalid value. Key:${key}; Value: ${value}`;

test.each([
  ['a negative Content-Length', 'Content-Length: -1', INVALID('Content-Length', '-1')],
  ['a Content-Length that is no number', 'Content-Length: abc', INVALID('Content-Length', 'abc')],
  [
    'Content-Lengths that differ',
    'Content-Length: 1\r\nContent-Length: 2',
    INVALID('Content-Length', '2'),
  ],
  [
    'a Content-Length beyond 2^53',
    `Content-Length: ${'9'.repeat(30)}`,
    INVALID('Content-Length', '9'.repeat(30)),
  ],
  [
    'a body of 5 MB',
    'Content-Length: 5000000',
    'Request payload with size 5000000 is larger than the limit of 4194304 allowed by server.',
  ],
  [
    'an encoding that nobody knows',
    'Transfer-Encoding: gzip',
    INVALID('Transfer-Encoding', 'gzip'),
  ],
  [
    'chunks beside a length',
    'Content-Length: 1\r\nTransfer-Encoding: chunked',
    'Invalid request. Both Content-Length and Transfer-Encoding are given',
  ],
  ['a line of 9000 bytes', `X: ${'x'.repeat(9000)}`, 'Invalid request.'],
  ['heads of 70 KB', `X: ${'x'.repeat(7000)}\r\n`.repeat(10).trimEnd(), 'Invalid request.'],
])('%s is refused and ends the connection', async (_name, header, message) => {
  await serve();

  const client = new Client().send(`PUT /a HTTP/1.1\r\n${header}\r\n\r\nGET /b HTTP/1.1\r\n\r\n`);

  await client.sees(REFUSED(message));
  await expect.poll(() => client.ended).toBe(true);
});

test('a chunk longer than it said ends the connection', async () => {
  await serve();

  const client = new Client().send(
    'PUT /a HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nabc\r\n0\r\n\r\n',
  );

  await client.sees(REFUSED('Invalid request.'));
  await expect.poll(() => client.ended).toBe(true);
});

test('a body of chunks is bounded, too', async () => {
  await serve();

  const client = new Client().send(
    'PUT /a HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n400001\r\n',
  );

  await expect.poll(() => client.received).toContain('larger than the limit of 4194304');
});

test('a request waits for the one before it, and its answer comes after', async () => {
  const replies: (() => void)[] = [];
  await serve(({ url }, reply) => {
    replies.push(() => {
      reply.writeHead(200);
      reply.end(url);
    });
  });

  const client = new Client().send('GET /a HTTP/1.1\r\n\r\nGET /b HTTP/1.1\r\n\r\n');

  await expect.poll(() => replies.length).toBe(1);
  replies[0]?.();
  await expect.poll(() => replies.length).toBe(2);
  replies[1]?.();
  await client.sees(OK('/a') + OK('/b'));
});

test('an answer to HEAD has no body', async () => {
  await serve();

  const client = new Client().send('HEAD /a HTTP/1.1\r\n\r\nGET /b HTTP/1.1\r\n\r\n');

  await client.sees(OK('HEAD /a ').replace(/HEAD.*/, '') + OK('GET /b '));
});

test('a client that shuts its side down still gets its answer, then the end', async () => {
  await serve();

  const client = new Client().send('GET /a HTTP/1.1\r\n\r\n');
  client.socket.end();

  await client.sees(OK('GET /a '));
  await expect.poll(() => client.ended).toBe(true);
});

test('a connection beyond the 128th is refused until another ends', async () => {
  await serve();
  const clients = Array.from({ length: 128 }, () => new Client().send('GET /a HTTP/1.1\r\n\r\n'));
  for (const client of clients) await client.sees(OK('GET /a '));

  const late = new Client();
  await expect.poll(() => late.ended).toBe(true);
  expect(late.received).toContain('503');
  expect(late.received).toContain('{ "error": "Too many open connections" }');

  clients[0]?.socket.destroy();
  await expect
    .poll(async () => {
      const next = new Client().send('GET /a HTTP/1.1\r\n\r\n');
      await expect.poll(() => next.received.length).toBeGreaterThan(0);
      return next.received;
    })
    .toBe(OK('GET /a '));
});

test('clients that go away mid-request or mid-reply leave nothing behind', async () => {
  const replies: (() => void)[] = [];
  await serve(({ url }, reply) => {
    replies.push(() => {
      reply.writeHead(200);
      reply.end(url);
    });
  });

  for (let round = 0; round < 30; round++) {
    const half = new Client().send('PUT /a HTTP/1.1\r\nContent-Length: 10\r\n\r\n{');
    const waiting = new Client().send('GET /a HTTP/1.1\r\n\r\n');
    await expect.poll(() => replies.length, { interval: 1 }).toBe(1);
    half.socket.destroy();
    waiting.socket.destroy();
    replies.pop()?.();
  }

  const client = new Client().send('GET /b HTTP/1.1\r\n\r\n');
  await expect.poll(() => replies.length).toBe(1);
  replies.pop()?.();
  await client.sees(OK('/b'));
});

test('a client that only asks and never reads is not read from for ever', async () => {
  let handled = 0;
  await serve((_request, reply) => {
    handled++;
    reply.writeHead(200);
    reply.end('x'.repeat(100_000));
  });
  const client = new Client();
  client.socket.pause();

  client.send('GET /a HTTP/1.1\r\n\r\n'.repeat(1000));
  await new Promise((resolve) => setTimeout(resolve, 100));

  expect(handled).toBeLessThan(50);
});

test('closing answers the request in progress and no other', async () => {
  let answer: (() => void) | undefined;
  await serve(({ url }, reply) => {
    answer = () => {
      reply.writeHead(200);
      reply.end(url);
    };
  });
  const client = new Client().send('GET /a HTTP/1.1\r\n\r\nGET /b HTTP/1.1\r\n\r\n');
  const idle = new Client();
  await expect.poll(() => answer).toBeDefined();

  const closed = server?.close();
  answer?.();
  await closed;

  await client.sees(OK('/a'));
  await expect.poll(() => client.ended && idle.ended).toBe(true);
  server = undefined;
});

test('JSON goes out as ASCII and means the same', () => {
  const value = { path: '/tmp/é\u{1f600}"\\' };

  const text = asciiJson(value);

  expect(text).toMatch(/^[\x20-\x7e]*$/);
  expect(JSON.parse(text)).toEqual(value);
});
