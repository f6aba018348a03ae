import { PassThrough } from 'node:stream';
import { expect, test } from 'vitest';
import { parseResponse } from '../../e2e/support/api-client.ts';
import { SerialConsole } from '../../e2e/support/serial-console.ts';

test('text is found though it comes in pieces, and only once', async () => {
  const output = new PassThrough();
  const console = new SerialConsole(output);

  const found = console.waitFor('login', 1000);
  output.write('one\r\nlo');
  output.write('gin: two');

  expect(await found).toBe('one\nlogin');
  await expect(console.waitFor('login', 10)).rejects.toThrow('No login on the console in 10 ms');
  expect(await console.waitFor(/t[w]o/, 10)).toBe(': two');
});

test('a character that comes in two pieces stays whole', async () => {
  const output = new PassThrough();
  const console = new SerialConsole(output);
  const [first, ...rest] = Buffer.from('é');

  output.write(Buffer.from([first ?? 0]));
  output.write(Buffer.from(rest));

  expect(await console.waitFor('é', 1000)).toBe('é');
});

test('a response is complete only with all of its body', () => {
  const text = 'HTTP/1.1 200 OK\r\nContent-Length: 7\r\nServer: x\r\n\r\n{"a":1}';

  expect(parseResponse(Buffer.from(text.slice(0, 20)))).toBeUndefined();
  expect(parseResponse(Buffer.from(text.slice(0, -1)))).toBeUndefined();
  expect(parseResponse(Buffer.from(text))).toEqual({
    status: 200,
    headers: { 'content-length': '7', server: 'x' },
    text: '{"a":1}',
    json: { a: 1 },
  });
});

test('a response may have no body', () => {
  const response = parseResponse(Buffer.from('HTTP/1.1 204 No Content\r\n\r\n'));

  expect(response).toEqual({ status: 204, headers: {}, text: '', json: undefined });
});
