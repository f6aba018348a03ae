/**
 * virtio-watchdog, device type 35: resets a guest that stops stroking it. Its driver asks for one
 * byte every 15 s; the first time starts the watch.
 *
 * Data plane: this file. One request every few seconds.
 */
import type { Virtqueue } from '../../native.ts';
import { bool } from '../../schema.ts';
import type { DeviceContext } from '../device.ts';
import { type Activation, F_EVENT_IDX, F_INDIRECT_DESC, type VirtioDevice } from './device.ts';

export const WatchdogConfig = bool(false);

const QUEUE_SIZE = 8;
const STROKED = Uint8Array.of(1);

/**
 * How long a guest may go without. It is counted in steps, so that a host which slept, or did not
 * let this process run, finds one step gone and not all of them.
 */
const EXPIRY_MS = 20_000;
const STEP_MS = 5000;

export class Watchdog implements VirtioDevice {
  readonly virtioId = 35;
  readonly features = F_INDIRECT_DESC | F_EVENT_IDX;
  readonly queueSizes = [QUEUE_SIZE];
  readonly config = new Uint8Array(0);
  readonly #context: Pick<DeviceContext, 'resetGuest' | 'onWarning'>;
  #steps: NodeJS.Timeout | undefined;
  #stepCount = 0;
  /** It was stroked since the driver started. */
  #isWatching = false;

  constructor(context: Pick<DeviceContext, 'resetGuest' | 'onWarning'>) {
    this.#context = context;
  }

  activate({ queues: [strokes] }: Activation): void {
    strokes?.onKick(() => this.#serve(strokes));
  }

  /** A request without room for the byte is answered, and strokes nothing. */
  #serve(queue: Virtqueue): void {
    for (let chain = queue.take(); chain; chain = queue.take()) {
      const written = chain.write(STROKED);
      chain.complete(written);
      if (written > 0) this.#watch();
    }
  }

  /** From the start again. */
  #watch(): void {
    this.#isWatching = true;
    this.#stepCount = 0;
    if (this.#steps) this.#steps.refresh();
    else this.#steps = setInterval(() => this.#step(), STEP_MS).unref();
  }

  #step(): void {
    this.#stepCount++;
    if (this.#stepCount * STEP_MS < EXPIRY_MS) return;
    this.#rest();
    this.#isWatching = false;
    const { onWarning, resetGuest } = this.#context;
    onWarning(`The guest has not stroked its watchdog for ${EXPIRY_MS / 1000} s, and is reset`);
    resetGuest();
  }

  #rest(): void {
    clearInterval(this.#steps);
    this.#steps = undefined;
  }

  /** A guest that stands still cannot stroke. */
  async pause(): Promise<void> {
    this.#rest();
  }

  resume(): void {
    if (this.#isWatching) this.#watch();
  }

  /** Its driver has left in good order, and takes the watch with it. */
  async reset(): Promise<void> {
    this.#rest();
    this.#isWatching = false;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.reset();
  }
}
