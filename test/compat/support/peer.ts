import { constants, openSync } from 'node:fs';
import { connect, type Socket } from 'node:net';
import { ReadStream } from 'node:tty';
import { expect } from 'vitest';

const SOON = { timeout: 10_000, interval: 5 };

/** Somebody at the far end of a serial port or console. */
export class Peer implements Disposable {
  readonly #stream: Socket | ReadStream;
  text = '';
  ended = false;

  constructor(stream: Socket | ReadStream) {
    this.#stream = stream;
    stream.on('data', (bytes: Buffer) => {
      this.text += bytes.toString('latin1');
    });
    stream.on('error', () => {});
    stream.on('close', () => {
      this.ended = true;
    });
  }

  static async ofPty(path: string): Promise<Peer> {
    return new Peer(new ReadStream(openSync(path, constants.O_RDWR | constants.O_NOCTTY)));
  }

  static async ofSocket(path: string): Promise<Peer> {
    const socket = connect(path);
    await new Promise((resolve, reject) => socket.once('connect', resolve).once('error', reject));
    return new Peer(socket);
  }

  type(text: string): void {
    this.#stream.write(text, 'latin1');
  }

  async shows(text: string): Promise<void> {
    await expect.poll(() => this.text, SOON).toBe(text);
  }

  [Symbol.dispose](): void {
    this.#stream.destroy();
  }
}
