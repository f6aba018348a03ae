/** A minimal HTTP/1.1 client for the API socket: what it sends and gets is all there is to see. */
import type { Duplex } from 'node:stream';

export interface ApiResponse {
  status: number;
  /** Names in lower case. */
  headers: Record<string, string>;
  text: string;
  /** The body parsed; undefined if it is empty or not JSON. */
  json: unknown;
}

const TIMEOUT_MS = 60_000;
const BASE = '/api/v1/';

export class ApiClient {
  readonly #connect: () => Promise<Duplex>;

  /** @param connect opens a connection to the API socket. */
  constructor(connect: () => Promise<Duplex>) {
    this.#connect = connect;
  }

  /** @param path below `/api/v1/`, as in `vm.info`. */
  get(path: string): Promise<ApiResponse> {
    return this.request('GET', path);
  }

  /** @param body sent as JSON, or as it is if it is a string. */
  put(path: string, body?: object | string): Promise<ApiResponse> {
    return this.request('PUT', path, body);
  }

  /** One request over a connection of its own. */
  async request(method: string, path: string, body?: object | string): Promise<ApiResponse> {
    const stream = await this.#connect();
    const timer = setTimeout(() => {
      stream.destroy(new Error(`No answer to ${method} ${path} in ${TIMEOUT_MS} ms`));
    }, TIMEOUT_MS);
    try {
      stream.write(encodeRequest(method, path.startsWith('/') ? path : BASE + path, body));
      return await readResponse(stream);
    } finally {
      clearTimeout(timer);
      stream.destroy();
    }
  }
}

function encodeRequest(method: string, path: string, body?: object | string): string {
  const content = typeof body === 'object' ? JSON.stringify(body) : (body ?? '');
  const lines = [`${method} ${path} HTTP/1.1`, 'Host: localhost', 'Accept: */*'];
  if (content !== '') {
    lines.push('Content-Type: application/json', `Content-Length: ${Buffer.byteLength(content)}`);
  }
  return `${lines.join('\r\n')}\r\n\r\n${content}`;
}

async function readResponse(stream: Duplex): Promise<ApiResponse> {
  let received = Buffer.alloc(0);
  for await (const chunk of stream) {
    received = Buffer.concat([received, chunk]);
    const response = parseResponse(received);
    if (response) return response;
  }
  throw new Error(`The connection ended within a response: ${received.toString()}`);
}

/** @returns undefined until all of it is there. */
export function parseResponse(bytes: Buffer): ApiResponse | undefined {
  const headEnd = bytes.indexOf('\r\n\r\n');
  if (headEnd < 0) return undefined;
  const [statusLine = '', ...fields] = bytes.toString('latin1', 0, headEnd).split('\r\n');
  const headers = Object.fromEntries(
    fields.map((field) => {
      const colon = field.indexOf(':');
      return [field.slice(0, colon).toLowerCase(), field.slice(colon + 1).trim()];
    }),
  );
  const body = bytes.subarray(headEnd + 4);
  const lengthBytes = Number(headers['content-length'] ?? 0);
  if (body.length < lengthBytes) return undefined;
  const status = Number(/^HTTP\/1\.[01] (\d{3})/.exec(statusLine)?.[1]);
  const text = body.toString('utf8', 0, lengthBytes);
  return { status, headers, text, json: parseJson(text) };
}

function parseJson(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
}
