/**
 * The HTTP server of the API: connections, replies and their order. node:http is never loaded: its
 * reason phrases break ch-remote, it costs 10 ms of start-up, and it wakes every 30 s.
 *
 * A reply leaves in one write, with header names spelled as clients match them. Connections stay
 * open until the client closes them, however long they are idle.
 */
import { closeSync } from 'node:fs';
import { native } from '../native.ts';
import type { FdListener, FdSocket } from '../native-sockets.ts';
import { type Parsed, RequestParser } from './request-parser.ts';

/** The original took ten, which pools of clients exceed; more would use up the process's files. */
const CONNECTIONS_MAX = 128;

/** As many as the kernel takes with one message. */
const REQUEST_FDS_MAX = 253;

/** How soon a client is taken again that there was no descriptor for. */
const RETRY_MS = 500;

/** For all connections: what is read is copied before the next read. */
const into = Buffer.allocUnsafeSlow(64 * 1024);

/** A request as Fastify wants it: what it looks at of an http.IncomingMessage. */
export interface WireRequest {
  readonly method: string;
  url: string;
  /** Only what tells Fastify whether there is a body; nothing here depends on another header. */
  readonly headers: { readonly 'content-length': string };
  readonly httpVersionMajor: 1;
  /** Read whole and unparsed. */
  readonly body: Buffer;
  /** That came with it. Whoever takes one removes it; the others are closed with the reply. */
  readonly fds: number[];
}

export type WireHandler = (request: WireRequest, reply: WireReply) => void;

/** JSON that is plain ASCII: ch-remote decodes each 256 bytes by themselves as UTF-8. */
export function asciiJson(value: unknown): string {
  const escaped = (unit: string) => `\\u${unit.charCodeAt(0).toString(16).padStart(4, '0')}`;
  return JSON.stringify(value).replace(/[\u0080-\uffff]/g, escaped);
}

const HEAD_END = '\r\n\r\n';
const KEEP_ALIVE = 'Connection: keep-alive';
const CLOSE = 'Connection: close';

/** `body` is ASCII. 204 and 100 have no body and no header that speaks of one. */
function render(status: number, body: string, allow?: string): string {
  const head = [`HTTP/1.1 ${status} `, 'Server: Cloud Hypervisor API', KEEP_ALIVE];
  if (allow) head.push(`Allow: ${allow}`);
  if (status === 204 || status === 100) return head.join('\r\n') + HEAD_END;
  head.push('Content-Type: application/json', `Content-Length: ${body.length}`);
  return head.join('\r\n') + HEAD_END + body;
}

const FDS_TOO_MANY = `Too many file descriptors: a request takes at most ${REQUEST_FDS_MAX}`;
const FDS_LOST =
  'File descriptors could not be received: raise the limit of open files of the VMM (RLIMIT_NOFILE)';

const TOO_MANY = '{ "error": "Too many open connections" }';
const TOO_MANY_REPLY = [
  'HTTP/1.1 503 ',
  'Server: Cloud Hypervisor API',
  CLOSE,
  `Content-Length: ${TOO_MANY.length}`,
  '',
  TOO_MANY,
].join('\r\n');

/** What Fastify uses of an http.ServerResponse. */
class WireReply {
  statusCode = 200;
  headersSent = false;
  writableEnded = false;
  readonly #send: (text: string) => void;
  #allow: string | undefined;

  constructor(send: (text: string) => void) {
    this.#send = send;
  }

  writeHead(status: number, headers: { allow?: string } = {}): void {
    this.headersSent = true;
    this.statusCode = status;
    this.#allow = headers.allow;
  }

  end(body?: string | null): void {
    if (this.writableEnded) return;
    this.writableEnded = true;
    this.#send(render(this.statusCode, body ?? '', this.#allow));
  }

  // Fastify keeps headers of its own and asks here for those set past it: there are none.
  hasHeader(): boolean {
    return false;
  }
  getHeader(): undefined {}
  getHeaders(): object {
    return {};
  }
  removeHeader(): void {}
}

/** One client: requests are handled one at a time, in order, and read no faster than that. */
class Connection {
  readonly #socket: FdSocket;
  readonly #handler: WireHandler;
  readonly #parser = new RequestParser();
  /** Belong to the next request that ends: clients that send some wait for each answer. */
  #fds: number[] = [];
  /** A request is being handled, or the client has yet to read what we said. */
  #busy = false;
  #advancing = false;
  #clientEnded = false;
  #closed = false;

  constructor(fd: number, handler: WireHandler, onClose: () => void) {
    this.#handler = handler;
    this.#socket = new native.FdSocket(fd, {
      into,
      onData: this.#onData,
      // A client that has said all it will say still gets its answers, and then the end.
      onEnd: () => {
        this.#clientEnded = true;
        this.#advance();
      },
      onDrain: () => {
        this.#busy = false;
        this.#advance();
      },
      onClose: () => {
        closeAll(this.#fds);
        onClose();
      },
    });
  }

  #onData = (sizeBytes: number, fds: number[] | null = []): void => {
    if (fds === null) this.#parser.refuse(FDS_LOST);
    else if (fds.length > 0) this.#keepFds(fds);
    this.#parser.push(Buffer.from(into.subarray(0, sizeBytes)));
    this.#advance();
  };

  #keepFds(fds: readonly number[]): void {
    this.#fds.push(...fds);
    if (this.#fds.length <= REQUEST_FDS_MAX) return;
    closeAll(this.#fds);
    this.#parser.refuse(FDS_TOO_MANY);
  }

  /** Takes no further request, and ends once the one being handled is answered. */
  close(): void {
    this.#closed = true;
    this.#advance();
  }

  /** Handlers may answer at once: then the loop goes on, and does not recurse. */
  #advance(): void {
    if (this.#advancing) return;
    this.#advancing = true;
    while (!this.#busy && !this.#closed && this.#step());
    this.#advancing = false;

    if (this.#busy) this.#socket.pause();
    else if (this.#closed) this.#socket.destroy();
    else if (this.#clientEnded) this.#socket.end();
    else this.#socket.resume();
  }

  /** False if the client has to say more first. */
  #step(): boolean {
    const parsed = this.#parser.next();
    switch (parsed?.kind) {
      case undefined:
        return false;
      case 'continue':
        this.#write(render(100, ''));
        return true;
      case 'refused':
        this.#write(render(400, asciiJson({ error: parsed.message })));
        // What comes after a lost frame is read and dropped: closing would lose the answer, too.
        if (parsed.fatal) this.#socket.end();
        return true;
      case 'request':
        this.#handle(parsed);
        return true;
    }
  }

  #handle({ method, target: url, body, last }: Parsed & { kind: 'request' }): void {
    this.#busy = true;
    const headers = { 'content-length': String(body.length) };
    const fds = this.#fds;
    this.#fds = [];
    this.#handler(
      { method, url, headers, httpVersionMajor: 1, body, fds },
      new WireReply((text) => {
        closeAll(fds);
        this.#busy = false;
        const reply = last ? text.replace(KEEP_ALIVE, CLOSE) : text;
        // To HEAD nothing but the head, or the client takes the body for the next reply.
        this.#write(
          method === 'HEAD' ? reply.slice(0, reply.indexOf(HEAD_END) + HEAD_END.length) : reply,
        );
        if (last) this.#socket.end();
        this.#advance();
      }),
    );
  }

  /** A client that asks and does not read is not read from either. */
  #write(text: string): void {
    if (!this.#socket.write(text)) this.#busy = true;
  }
}

/** And forgets them. */
function closeAll(fds: number[]): void {
  for (const fd of fds.splice(0)) closeSync(fd);
}

export class WireServer {
  readonly #handler: WireHandler;
  readonly #connections = new Set<Connection>();
  #listener: FdListener | undefined;
  #retry: NodeJS.Timeout | undefined;
  #onClosed: (() => void) | undefined;

  constructor(handler: WireHandler) {
    this.#handler = handler;
  }

  /**
   * Serves on a Unix socket: one that already listens, by its fd, which is then ours; or a path.
   * @throws SystemError of bind, listen or whatever says that `fd` does not listen.
   */
  listen(where: { fd: number } | { path: string }): void {
    this.#listener = new native.FdListener({
      ...where,
      onConnection: this.#onConnection,
      onStall: () => {
        this.#retry = setTimeout(() => this.#listener?.resume(), RETRY_MS);
      },
    });
  }

  /** Resolves when every connection has ended: each when its request in progress is answered. */
  close(): Promise<void> {
    clearTimeout(this.#retry);
    this.#listener?.close();
    return new Promise((resolve) => {
      this.#onClosed = resolve;
      for (const connection of this.#connections) connection.close();
      this.#checkClosed();
    });
  }

  #onConnection = (fd: number): void => {
    if (this.#connections.size >= CONNECTIONS_MAX) {
      refuse(fd);
      return;
    }
    const connection = new Connection(fd, this.#handler, () => {
      this.#connections.delete(connection);
      this.#checkClosed();
    });
    this.#connections.add(connection);
  };

  #checkClosed(): void {
    if (this.#connections.size === 0) this.#onClosed?.();
  }
}

function refuse(fd: number): void {
  const ignore = () => {};
  const events = { onData: ignore, onEnd: ignore, onDrain: ignore, onClose: ignore };
  const socket = new native.FdSocket(fd, { into, ...events });
  socket.write(TOO_MANY_REPLY);
  socket.destroy();
}
