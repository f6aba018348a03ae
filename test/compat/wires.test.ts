/** The bytes of existing clients, as each of them sends them, and what each makes of the answer. */
import { readdirSync, readlinkSync, writeFileSync } from 'node:fs';
import { connect, type Socket } from 'node:net';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { buildFdClient } from '../unit/api/support/send-fds.ts';
import { guestConfig } from './support/guests.ts';
import { VmmProcess } from './support/vmm-process.ts';

/** Of ch-remote, between writes that the kernel must not join. */
const GAP_MS = 5;
const SOON = { timeout: 10_000, interval: 5 };

let vmm: VmmProcess;

beforeEach(async () => {
  vmm = await VmmProcess.start();
});

afterEach(() => vmm[Symbol.asyncDispose]());

const config = () => JSON.stringify({ ...guestConfig(vmm.folder), cpus: null });

/** A connection that stays open, and each piece that came back on it. */
class Connection implements Disposable {
  readonly socket: Socket;
  readonly pieces: string[] = [];
  ended = false;

  constructor() {
    this.socket = connect(vmm.socket);
    this.socket.setNoDelay(true);
    this.socket.on('data', (bytes) => this.pieces.push(bytes.toString('latin1')));
    this.socket.on('error', () => {}); // what came back tells
    this.socket.on('close', () => {
      this.ended = true;
    });
  }

  get text(): string {
    return this.pieces.join('');
  }

  async write(...pieces: readonly string[]): Promise<void> {
    for (const piece of pieces) {
      this.socket.write(piece);
      await sleep(GAP_MS);
    }
  }

  /** Waits for so many answers in all. */
  async answers(count: number): Promise<string[]> {
    await expect.poll(() => this.text.match(/HTTP\/1\.1 /g)?.length, SOON).toBe(count);
    return this.text.split(/(?=HTTP\/1\.1 )/);
  }

  [Symbol.dispose](): void {
    this.socket.destroy();
  }
}

const api = (method: string, name: string) => `${method} /api/v1/${name} HTTP/1.1\r\n`;
const length = (body: string) => `Content-Length: ${Buffer.byteLength(body)}\r\n`;
const CREATED = /^HTTP\/1\.1 204 \r\n/;

describe('ch-remote and its library', () => {
  const head = (method: string, name: string) =>
    `${api(method, name)}Host: localhost\r\nAccept: */*\r\n`;

  test('four writes with gaps, no Content-Type', async () => {
    using client = new Connection();
    const body = config();
    await client.write(head('PUT', 'vm.create'), length(body), '\r\n', body);

    expect((await client.answers(1))[0]).toMatch(CREATED);
  });

  test('a PUT without a body or Content-Length, on the connection of the last one', async () => {
    using client = new Connection();
    const body = config();
    await client.write(head('PUT', 'vm.create'), length(body), '\r\n', body);
    await client.answers(1);
    await client.write(head('PUT', 'vm.boot'), '\r\n');
    await client.answers(2);
    await client.write(head('PUT', 'vm.delete'), '\r\n');

    expect(await client.answers(3)).toEqual(Array(3).fill(expect.stringMatching(CREATED)));
  });

  test('all that follows the version is a number, and the length is spelled so', async () => {
    using client = new Connection();
    await client.write(head('GET', 'vm.info'), '\r\n');
    const [answer = ''] = await client.answers(1);

    const [status = '', ...headers] = answer.split('\r\n\r\n')[0]?.split('\r\n') ?? [];
    expect(Number(status.slice('HTTP/1.1'.length))).toBe(404);
    expect(headers.some((header) => /^Content-Length: \d+$/.test(header))).toBe(true);
    expect(answer).not.toContain('Transfer-Encoding');
  });

  test('a reply that is cut at any byte is UTF-8: it has none above 0x7f', async () => {
    const file = join(vmm.folder, 'säge-\u{1f4be}.log');
    const { status } = await vmm.put('vm.create', {
      ...guestConfig(vmm.folder),
      serial: { mode: 'File', file },
    });
    expect(status).toBe(204);
    const { text, body } = await vmm.get('vm.info');

    expect([...text].every((char) => char.charCodeAt(0) < 0x80)).toBe(true);
    expect(body).toMatchObject({ config: { serial: { file } } });
  });
});

const passedFile = () => join(vmm.folder, 'passed');

/** How many descriptors of that file the VMM has. */
const heldCount = () =>
  readdirSync(`/proc/${vmm.pid}/fd`).filter((fd) => {
    try {
      return readlinkSync(`/proc/${vmm.pid}/fd/${fd}`) === passedFile();
    } catch {
      return false; // closed since
    }
  }).length;

describe('descriptors', () => {
  const request = () => {
    const body = config();
    const rest = `${length(body)}\r\n${body}`;
    return { head: `${api('PUT', 'vm.create')}Host: localhost\r\nAccept: */*\r\n`, rest };
  };

  test.each([0, 1, 8])('%i with the first of two segments, and none is kept', async (count) => {
    const send = buildFdClient(vmm.folder);
    writeFileSync(passedFile(), '');
    const { head, rest } = request();

    const answer = send(vmm.socket, passedFile(), [
      [head, count],
      [rest, 0],
    ]).answer();

    expect(await answer).toMatch(CREATED);
    await expect.poll(heldCount, SOON).toBe(0);
  });

  test.each([0, 1, 8])('%i with the whole request, and none is kept', async (count) => {
    const send = buildFdClient(vmm.folder);
    writeFileSync(passedFile(), '');
    const { head, rest } = request();

    const answer = send(vmm.socket, passedFile(), [[`${head}${rest}`, count]]).answer();

    expect(await answer).toMatch(CREATED);
    await expect.poll(heldCount, SOON).toBe(0);
  });
});

describe('Go', () => {
  test('its header order, a body that ends with a line end, keep-alive', async () => {
    using client = new Connection();
    const body = `${config()}\n`;
    const agent = 'User-Agent: OpenAPI-Generator/1.0.0/go\r\n';
    const type = 'Content-Type: application/json\r\nAccept-Encoding: gzip\r\n';
    await client.write(
      `${api('PUT', 'vm.create')}Host: localhost\r\n${agent}${length(body)}${type}\r\n${body}`,
    );
    await client.answers(1);
    await client.write(
      `${api('PUT', 'vm.boot')}Host: localhost\r\n${agent}Content-Length: 0\r\n\r\n`,
    );

    expect(await client.answers(2)).toEqual(Array(2).fill(expect.stringMatching(CREATED)));
  });
});

describe('libcurl', () => {
  test('an empty upload of unknown size: chunked, after 100 Continue', async () => {
    await vmm.put('vm.create', config());
    using client = new Connection();
    const expecting = 'Transfer-Encoding: chunked\r\nExpect: 100-continue\r\n';
    await client.write(
      `${api('PUT', 'vm.boot')}Host: localhost\r\nAccept: */*\r\n${expecting}\r\n`,
    );
    await expect.poll(() => client.text, SOON).toMatch(/^HTTP\/1\.1 100 \r\n.*\r\n\r\n$/s);
    await client.write('0\r\n\r\n');

    expect((await client.answers(2))[1]).toMatch(CREATED);
  });

  test('one that does not wait for it', async () => {
    await vmm.put('vm.create', config());
    using client = new Connection();
    const expecting = 'Transfer-Encoding: chunked\r\nExpect: 100-continue\r\n';
    await client.write(`${api('PUT', 'vm.boot')}Host: localhost\r\n${expecting}\r\n0\r\n\r\n`);

    await expect.poll(() => client.text, SOON).toMatch(/HTTP\/1\.1 204 \r\n/);
  });

  test('a body in chunks', async () => {
    using client = new Connection();
    const body = config();
    const half = body.length >> 1;
    const chunk = (text: string) => `${text.length.toString(16)}\r\n${text}\r\n`;
    await client.write(
      `${api('PUT', 'vm.create')}Host: localhost\r\nTransfer-Encoding: chunked\r\n\r\n`,
      chunk(body.slice(0, half)),
      chunk(body.slice(half)),
      chunk(''),
    );

    expect((await client.answers(1))[0]).toMatch(CREATED);
  });
});

describe('libvirt', () => {
  test('a reply comes in one piece, which one recv of 1023 bytes reads', async () => {
    using client = new Connection();
    const body = config();
    const head = `${api('PUT', 'vm.create')}Host: localhost\r\nAccept: application/json\r\n`;
    const type = 'Content-Type: application/json\r\n';
    await client.write(`${head}${type}${length(body)}\r\n${body}`);
    await client.answers(1);
    await client.write(`${api('PUT', 'vm.pause')}Host: localhost\r\n\r\n`);
    await client.answers(2);

    expect(client.pieces).toHaveLength(2);
    expect(client.pieces.every((piece) => piece.length <= 1023)).toBe(true);
  });
});

describe('hyper, of the Rust crate', () => {
  test('lower-case names, and the path of the socket in hex as host', async () => {
    using client = new Connection();
    const host = `host: ${Buffer.from(vmm.socket).toString('hex')}\r\n`;
    const body = config();
    const type = 'content-type: application/json\r\n';
    const size = `content-length: ${body.length}\r\n`;
    await client.write(`${api('PUT', 'vm.create')}${type}${size}${host}\r\n${body}`);

    expect((await client.answers(1))[0]).toMatch(CREATED);
  });
});

describe('any', () => {
  const HOSTS = ['Host: localhost', 'Host:x', 'HOST: unix', 'Host: a: b', 'Host: 2f746d70', ''];
  test.each(HOSTS)('%j', async (host) => {
    const line = host === '' ? '' : `${host}\r\n`;
    const { status } = await vmm.raw(`${api('GET', 'vmm.ping')}${line}\r\n`);

    expect(status).toBe(200);
  });

  test('a request in writes of a byte each', async () => {
    const body = config();
    const text = `${api('PUT', 'vm.create')}${length(body)}\r\n${body}`;
    const { status } = await vmm.raw([...text]);

    expect(status).toBe(204);
  });

  test('a header line of 8 KiB, but for its line end', async () => {
    const name = 'X-Long: ';
    const value = 'x'.repeat(8192 - name.length - '\r'.length);
    const { status } = await vmm.raw(`${api('GET', 'vmm.ping')}${name}${value}\r\n\r\n`);

    expect(status).toBe(200);
  });

  test('a body of 4 MiB', async () => {
    const text = config();
    const { status } = await vmm.put('vm.create', text + ' '.repeat((4 << 20) - text.length));

    expect(status).toBe(204);
  });

  test('a body of a byte more is refused', async () => {
    const text = config();
    const body = text + ' '.repeat((4 << 20) - text.length + 1);
    const { status } = await vmm.put('vm.create', body);

    expect(status).toBe(400);
    expect(await vmm.state()).toBe('None');
  });

  test('pipelined requests are answered in their order', async () => {
    using client = new Connection();
    const names = ['vmm.ping', 'vm.info', 'nowhere', 'vmm.ping'];
    await client.write(names.map((name) => `${api('GET', name)}\r\n`).join(''));

    const answers = await client.answers(names.length);
    expect(answers.map((answer) => answer.slice(9, 12))).toEqual(['200', '404', '404', '200']);
  });

  test('Connection: close is honoured, and without it a connection stays', async () => {
    using closing = new Connection();
    using staying = new Connection();
    await closing.write(`${api('GET', 'vmm.ping')}Connection: close\r\n\r\n`);
    await staying.write(`${api('GET', 'vmm.ping')}\r\n`);
    await closing.answers(1);
    await expect.poll(() => closing.ended, SOON).toBe(true);
    await staying.answers(1);
    await staying.write(`${api('GET', 'vmm.ping')}\r\n`);

    expect(await staying.answers(2)).toHaveLength(2);
  });

  test('64 connections at once, each with an answer', async () => {
    const clients = Array.from({ length: 64 }, () => new Connection());
    for (const client of clients) client.socket.write(`${api('GET', 'vmm.ping')}\r\n`);

    for (const client of clients) expect((await client.answers(1))[0]).toMatch(/^HTTP\/1\.1 200 /);
    for (const client of clients) client[Symbol.dispose]();
  });
});

test('what is no config is refused by each way to send it, and changes nothing', async () => {
  for (const body of ['', '{', '[]', '{"payload":1}', '\u0000']) {
    const { status } = await vmm.raw(`${api('PUT', 'vm.create')}${length(body)}\r\n${body}`);
    expect(status, body).toBe(400);
  }
  expect(await vmm.state()).toBe('None');
});
