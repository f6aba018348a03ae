/** A toy device: it answers a request with its own bytes, and has eight bytes of configuration. */
import {
  type Activation,
  F_EVENT_IDX,
  F_INDIRECT_DESC,
  type VirtioDevice,
} from '../../../src/devices/virtio/device.ts';
import type { Virtqueue } from '../../../src/native.ts';

/** Offered by the toy for no purpose. */
export const F_ECHO = 1n << 5n;

export class Echo implements VirtioDevice {
  readonly virtioId: number = 42;
  readonly features: bigint = F_ECHO | F_INDIRECT_DESC | F_EVENT_IDX;
  readonly queueSizes: readonly number[];
  readonly config: Uint8Array;
  /** What it was asked to do, in order. */
  readonly calls: string[] = [];
  activation: Activation | undefined;
  /** If set, `reset` waits for it. */
  resetDone: Promise<void> | undefined;

  constructor({ queueSizes = [256, 64], configBytes = 8 } = {}) {
    this.queueSizes = queueSizes;
    this.config = Uint8Array.from({ length: configBytes }, (_, i) => 0x10 + i);
  }

  activate(activation: Activation): void {
    this.calls.push('activate');
    this.activation = activation;
    for (const queue of activation.queues) queue?.onKick(() => this.#serve(queue));
  }

  #serve(queue: Virtqueue): void {
    for (let chain = queue.take(); chain; chain = queue.take()) {
      const bytes = new Uint8Array(chain.readableBytes);
      chain.read(bytes);
      chain.complete(chain.write(bytes));
    }
  }

  writeConfig(offset: number, sizeBytes: number, value: number): void {
    this.calls.push(`writeConfig ${offset} ${sizeBytes} ${value}`);
  }

  async reset(): Promise<void> {
    this.calls.push('reset');
    this.activation = undefined;
    await this.resetDone;
  }

  async pause(): Promise<void> {
    this.calls.push('pause');
  }

  resume(): void {
    this.calls.push('resume');
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.calls.push('dispose');
  }
}
