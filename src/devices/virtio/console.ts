/**
 * virtio-console: a terminal for the guest. VIRTIO 1.2 §5.3.
 *
 * Data plane: this file. It carries what a person types and reads.
 */
import type { Static } from '@sinclair/typebox';
import { Writer } from '../../bytes.ts';
import type { Virtqueue } from '../../native.ts';
import { consoleMode, iommuFields, object, option, text } from '../../schema.ts';
import type { CharHost } from '../device.ts';
import { type Activation, F_EVENT_IDX, F_INDIRECT_DESC, type VirtioDevice } from './device.ts';

export const ConsoleConfig = object(
  {
    file: option(text({ cli: { sets: { mode: 'File' } } })),
    mode: consoleMode,
    socket: option(text({ cli: { sets: { mode: 'Socket' } } })),
    ...iommuFields,
  },
  { default: { mode: 'Tty' } },
);
export type ConsoleConfig = Static<typeof ConsoleConfig>;

/** Feature bit, §5.3.3: cols and rows are valid. */
const F_SIZE = 1n << 0n;

// Config space, §5.3.4. The driver may write none of it: emerg_wr has a feature of its own.
const COLS = 0;
const ROWS = 2;
const MAX_NR_PORTS = 4;
const CONFIG_BYTES = 12;

const QUEUE_SIZE = 256;

/** As much as the host keeps: of a longer request only the end can ever be read. */
const OUTPUT_BYTES_MAX = 64 * 1024;

export class Console implements VirtioDevice {
  readonly virtioId = 3;
  readonly features = F_SIZE | F_INDIRECT_DESC | F_EVENT_IDX;
  readonly queueSizes = [QUEUE_SIZE, QUEUE_SIZE];
  readonly config: Uint8Array;
  readonly #host: CharHost;
  #active: Activation | undefined;
  #output: Uint8Array | undefined;

  constructor(host: CharHost) {
    this.#host = host;
    this.config = configOf(host);
    host.listen({ onInput: () => this.#receive(), onResize: () => this.#resize() });
  }

  activate(activation: Activation): void {
    this.#active = activation;
    const [receive, transmit] = activation.queues;
    receive?.onKick(() => this.#receive());
    transmit?.onKick(() => this.#transmit(transmit));
  }

  /** Input stays with the host until the driver has room for it. */
  #receive(): void {
    const queue = this.#active?.queues[0];
    for (let input = this.#host.peek(); input.length > 0; input = this.#host.peek()) {
      const chain = queue?.take();
      if (!chain) return;
      const written = chain.write(input);
      chain.complete(written);
      this.#host.drop(written);
    }
  }

  #transmit(queue: Virtqueue): void {
    this.#output ??= Buffer.allocUnsafeSlow(OUTPUT_BYTES_MAX);
    for (let chain = queue.take(); chain; chain = queue.take()) {
      const skipped = Math.max(0, chain.readableBytes - OUTPUT_BYTES_MAX);
      const count = chain.read(this.#output, skipped);
      this.#host.write(this.#output.subarray(0, count));
      chain.complete(0);
    }
  }

  #resize(): void {
    const before = this.config.slice();
    this.config.set(configOf(this.#host));
    if (Buffer.compare(before, this.config) === 0) return;
    if (this.#active && (this.#active.features & F_SIZE) !== 0n) this.#active.configChanged();
  }

  async pause(): Promise<void> {} // no request is ever left out
  resume(): void {}

  async reset(): Promise<void> {
    this.#active = undefined;
  }

  /** The host's side outlives it. */
  async [Symbol.asyncDispose](): Promise<void> {
    await this.reset();
  }
}

function configOf(host: CharHost): Uint8Array {
  const { cols, rows } = host.windowSize();
  return new Writer(CONFIG_BYTES).u16(COLS, cols).u16(ROWS, rows).u32(MAX_NR_PORTS, 1).bytes;
}
