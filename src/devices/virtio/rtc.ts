/**
 * virtio-rtc, device type 17: the host's wall clock for the guest. VIRTIO 1.4 §5.23; one clock, no
 * alarm, no cross-timestamps.
 *
 * Data plane: this file. A guest asks once in a while.
 */
import type { Static } from '@sinclair/typebox';
import { Reader, Writer } from '../../bytes.ts';
import type { Chain, Virtqueue } from '../../native.ts';
import { iommuFields, object } from '../../schema.ts';
import { type Activation, F_EVENT_IDX, F_INDIRECT_DESC, type VirtioDevice } from './device.ts';

export const RtcConfig = object({ ...iommuFields });
export type RtcConfig = Static<typeof RtcConfig>;

const QUEUE_SIZE = 256;

// What is asked for, in the first two bytes.
const READ = 0x0001;
const CONFIG = 0x1000;
const CLOCK_CAPABILITIES = 0x1001;
const CROSS_CAPABILITIES = 0x1002;

// How it went, in the first byte of the answer.
const OK = 0;
const NOT_SUPPORTED = 2;
const NO_SUCH_CLOCK = 3;
const INVALID = 4;

const CLOCK_COUNT = 1;
/** UTC that its host may smear around a leap second. */
const UTC_MAYBE_SMEARED = 4;

const HEAD_BYTES = 8;
/** Of every answer that is more than a head, and of every request that names a clock. */
const MESSAGE_BYTES = 16;
const BODY = HEAD_BYTES;

const headOf = (status: number): Writer => new Writer(HEAD_BYTES).u8(0, status);
const answer = (): Writer => new Writer(MESSAGE_BYTES).u8(0, OK);

export class Rtc implements VirtioDevice {
  readonly virtioId = 17;
  readonly features = F_INDIRECT_DESC | F_EVENT_IDX;
  readonly queueSizes = [QUEUE_SIZE];
  readonly config = new Uint8Array(0);
  readonly #nowNs: () => bigint;
  readonly #request = new Uint8Array(MESSAGE_BYTES);

  /** @param nowNs nanoseconds since 1970, UTC. */
  constructor(nowNs: () => bigint) {
    this.#nowNs = nowNs;
  }

  activate({ queues: [requests] }: Activation): void {
    requests?.onKick(() => this.#serve(requests));
  }

  /** An answer that does not fit is cut to its head, which says why. */
  #serve(queue: Virtqueue): void {
    for (let chain = queue.take(); chain; chain = queue.take()) {
      const { bytes } = this.#answer(chain);
      if (chain.writableBytes >= bytes.length) chain.complete(chain.write(bytes));
      else if (chain.writableBytes < HEAD_BYTES) chain.complete(0);
      else chain.complete(chain.write(headOf(INVALID).bytes));
    }
  }

  #answer(chain: Chain): Writer {
    const given = chain.read(this.#request);
    const request = new Reader(this.#request);
    if (given < HEAD_BYTES) return headOf(INVALID);
    const type = request.u16(0);
    if (type === CONFIG) return answer().u16(BODY, CLOCK_COUNT);
    if (type !== READ && type !== CLOCK_CAPABILITIES && type !== CROSS_CAPABILITIES)
      return headOf(NOT_SUPPORTED);
    if (given < MESSAGE_BYTES) return headOf(INVALID);
    if (request.u16(BODY) >= CLOCK_COUNT) return answer().u8(0, NO_SUCH_CLOCK);
    if (type === READ) return answer().u64(BODY, this.#nowNs());
    return type === CROSS_CAPABILITIES ? answer() : answer().u8(BODY, UTC_MAYBE_SMEARED);
  }

  async pause(): Promise<void> {} // no request is ever left out
  resume(): void {}
  async reset(): Promise<void> {}
  async [Symbol.asyncDispose](): Promise<void> {}
}
