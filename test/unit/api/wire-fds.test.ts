/** Descriptors that come with requests (SCM_RIGHTS). */
import { closeSync, mkdtempSync, readdirSync, readlinkSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test, vi } from 'vitest';
import { type WireHandler, WireServer } from '../../../src/api/wire.ts';
import { buildFdClient } from './support/send-fds.ts';

let directory: string;
let file: string;
let server: WireServer;
let send: (...messages: [string, number][]) => ReturnType<ReturnType<typeof buildFdClient>>;
let seen: [url: string, fds: number][];
let taken: number[];

/** Notes what came; keeps the descriptors of /take. */
const handler: WireHandler = ({ url, fds }, reply) => {
  seen.push([url, fds.length]);
  if (url === '/take') taken = fds.splice(0);
  reply.writeHead(204);
  reply.end();
};

beforeEach(() => {
  // In a worker thread, as tests run in, node warns of each descriptor that it has not opened.
  vi.spyOn(process, 'emitWarning').mockImplementation(() => {});
  directory = mkdtempSync(join(tmpdir(), 'wire-fds-'));
  file = join(directory, 'file');
  writeFileSync(file, '');
  const socket = join(directory, 'api.sock');
  server = new WireServer(handler);
  server.listen({ path: socket });
  const client = buildFdClient(directory);
  send = (...messages) => client(socket, file, messages);
  seen = [];
  taken = [];
});

afterEach(async () => {
  await server.close();
  rmSync(directory, { recursive: true });
});

/** How many descriptors of the file this process has. */
const held = (): number =>
  readdirSync('/proc/self/fd').filter((fd) => {
    try {
      return readlinkSync(`/proc/self/fd/${fd}`) === file;
    } catch {
      return false;
    }
  }).length;

const GET = (path: string) => `GET ${path} HTTP/1.1\r\n\r\n`;

test('descriptors belong to the request that they came with, and are closed after it', async () => {
  const answer = await send([GET('/a'), 253], [GET('/b'), 0]).answer();

  expect(answer.match(/ 204 /g)).toHaveLength(2);
  expect(seen).toEqual([
    ['/a', 253],
    ['/b', 0],
  ]);
  expect(held()).toBe(0);
});

test('descriptors of a request in pieces are its own, with whatever piece they come', async () => {
  await send(['GET /a HTTP/1.1\r\n', 2], ['\r\n', 3]).answer();

  expect(seen).toEqual([['/a', 5]]);
});

test('a descriptor that a handler took stays open', async () => {
  await send([GET('/take'), 2]).answer();

  expect(held()).toBe(2);
  for (const fd of taken) closeSync(fd);
});

test('descriptors of a request that never ends are closed with the connection', async () => {
  const client = send(['GET /a HTTP/1.1\r\n', 7]);
  await expect.poll(held).toBe(7);

  client.process.kill();

  await expect.poll(held).toBe(0);
  expect(seen).toEqual([]);
});

test('more descriptors than one message can carry are refused, and closed', async () => {
  const answer = await send(['GET /a HTTP/1.1\r\n', 253], ['\r\n', 1]).answer();

  expect(answer).toMatch(/^HTTP\/1\.1 400 /);
  expect(answer).toContain('Too many file descriptors: a request takes at most 253');
  expect(held()).toBe(0);
  expect(seen).toEqual([]);
});

test('descriptors after a refusal are closed, however many follow', async () => {
  const more: [string, number][] = Array.from({ length: 20 }, () => [GET('/b'), 200]);
  const client = send(['GET /a HTTP/1.1\r\n', 253], ['\r\n', 1], ...more);

  await client.answer();

  await expect.poll(held).toBe(0);
});
