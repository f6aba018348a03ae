/** The host's side of a console, with the person in front of it. */
import type { CharHost } from '../../../src/devices/device.ts';

export class FakeCharHost implements CharHost {
  size = { cols: 80, rows: 25 };
  shown = '';
  #input = Buffer.alloc(0);
  #listener: Parameters<CharHost['listen']>[0] | undefined;

  type(text: string): void {
    this.#input = Buffer.concat([this.#input, Buffer.from(text, 'latin1')]);
    this.#listener?.onInput();
  }

  resize(cols: number, rows: number): void {
    this.size = { cols, rows };
    this.#listener?.onResize();
  }

  get waiting(): string {
    return this.#input.toString('latin1');
  }

  write(bytes: Uint8Array): void {
    this.shown += Buffer.from(bytes).toString('latin1');
  }

  peek(): Uint8Array {
    return this.#input.subarray(0, 10);
  }

  drop(count: number): void {
    this.#input = this.#input.subarray(count);
  }

  windowSize(): { cols: number; rows: number } {
    return this.size;
  }

  listen(listener: Parameters<CharHost['listen']>[0]): void {
    this.#listener = listener;
  }
}
