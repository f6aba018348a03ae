/** The test's end of a connection to the agent on the emulated host. */
import { connect, type Socket } from 'node:net';
import { type Duplex, Readable, Writable } from 'node:stream';
import { withResolvers } from '../../guest-images/command.ts';
import { encodeFrame, Frame, FrameReader } from './frames.mjs';
import { HostLostError, type HostProcess, type ProcessExit, type SpawnOptions } from './host.ts';

type Request = { op: 'ping' } | ({ op: 'spawn'; argv: string[] } & SpawnOptions) | ConnectRequest;
interface ConnectRequest {
  op: 'connect';
  path: string;
}

/** A request that the agent granted. */
interface Granted {
  /** With nothing read of it but the answer, and nobody reading. */
  socket: Socket;
  /** The JSON of the answer. */
  answer: Record<string, unknown>;
}

/** @returns the id that the host was started with. */
export async function ping(port: number, timeoutMs: number): Promise<string> {
  const { socket, answer } = await ask(port, { op: 'ping' }, timeoutMs);
  socket.destroy();
  return String(answer['id']);
}

/** See KvmHost.connect. */
export async function connectOn(port: number, path: string): Promise<Duplex> {
  return (await ask(port, { op: 'connect', path })).socket;
}

/** See KvmHost.spawn. */
export async function spawnOn(
  port: number,
  argv: readonly string[],
  options: SpawnOptions,
): Promise<HostProcess> {
  const granted = await ask(port, { op: 'spawn', argv: [...argv], ...options });
  return new RemoteProcess(granted);
}

/** Opens a connection and makes the one request that it is for. */
async function ask(port: number, request: Request, timeoutMs?: number): Promise<Granted> {
  const socket = connect({ host: '127.0.0.1', port, noDelay: true, allowHalfOpen: true });
  const { promise, resolve, reject } = withResolvers<Granted>();
  const reader = new FrameReader();
  const onClose = () =>
    reject(new HostLostError(`connection closed by port ${port} before an answer`));
  const onError = (error: Error) => reject(new HostLostError(error.message));
  const onReadable = () => {
    for (let chunk = socket.read(); chunk !== null; chunk = socket.read()) reader.push(chunk);
    const frame = reader.next();
    if (!frame) return;
    socket.off('readable', onReadable).off('close', onClose).off('end', onClose);
    socket.off('error', onError);
    if (reader.rest.length > 0) socket.unshift(reader.rest);
    const answer = JSON.parse(frame.content.toString());
    if (frame.type === Frame.granted) return resolve({ socket, answer });
    socket.destroy();
    reject(Object.assign(new Error(answer.message), { code: answer.code }));
  };
  socket.on('readable', onReadable).on('close', onClose).on('end', onClose).on('error', onError);
  socket.write(encodeFrame(Frame.request, JSON.stringify(request)));
  const timer =
    timeoutMs &&
    setTimeout(() => {
      reject(new HostLostError(`no answer in ${timeoutMs} ms`));
      socket.destroy();
    }, timeoutMs);
  return promise.finally(() => timer && clearTimeout(timer));
}

class RemoteProcess implements HostProcess {
  readonly pid: number;
  readonly stdin: Writable;
  readonly stdout: Readable;
  readonly stderr: Readable;
  readonly exited: Promise<ProcessExit>;
  readonly #socket: Socket;
  readonly #reader = new FrameReader();
  readonly #exit = withResolvers<ProcessExit>();

  constructor({ socket, answer }: Granted) {
    this.pid = Number(answer['pid']);
    this.#socket = socket;
    this.stdin = this.#input();
    this.stdout = this.#output();
    this.stderr = this.#output();
    this.exited = this.#exit.promise;
    this.exited.catch(() => {}); // who awaits it hears of the loss; nobody has to
    socket.on('error', () => {}); // `close` follows
    socket.on('close', () => this.#end());
    socket.on('end', () => socket.destroy());
    socket.on('data', (chunk: Buffer) => {
      this.#reader.push(chunk);
      this.#readFrames();
    });
  }

  kill(signal: NodeJS.Signals = 'SIGTERM'): void {
    if (this.#socket.writable) this.#socket.write(encodeFrame(Frame.kill, signal));
  }

  #readFrames(): void {
    for (let frame = this.#reader.next(); frame; frame = this.#reader.next()) {
      const { type, content } = frame;
      if (type === Frame.stdout) this.#deliver(this.stdout, content);
      else if (type === Frame.stderr) this.#deliver(this.stderr, content);
      else if (type === Frame.exit) {
        this.#exit.resolve(JSON.parse(content.toString()));
        this.#end();
      }
    }
  }

  /** Slows the program down for a reader that is slower, not for one that does not read at all. */
  #deliver(stream: Readable, content: Buffer): void {
    const full = !stream.push(content);
    if (full && stream.readableFlowing !== null) this.#socket.pause();
  }

  #end(): void {
    // Of no effect if its exit was told before.
    this.#exit.reject(new HostLostError('connection closed while a program ran'));
    this.stdout.push(null);
    this.stderr.push(null);
    this.stdin.destroy();
    this.#socket.destroy();
  }

  #output(): Readable {
    return new Readable({ read: () => this.#socket.resume() });
  }

  #input(): Writable {
    const socket = this.#socket;
    return new Writable({
      write(chunk: Buffer, _encoding, done) {
        if (!socket.writable)
          done(); // it has ended; its exit code tells
        else socket.write(encodeFrame(Frame.stdin, chunk), () => done());
      },
      final(done) {
        if (!socket.writable) done();
        else socket.write(encodeFrame(Frame.stdin), () => done());
      },
    });
  }
}
