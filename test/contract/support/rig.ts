/**
 * A virtio device behind its transport, on the addon's own virtqueues, in RAM that the test writes:
 * all of a machine but a vCPU.
 */
import { MIB } from '../../../src/bytes.ts';
import type { VirtioDevice } from '../../../src/devices/virtio/device.ts';
import { type GuestMemory, native } from '../../../src/native.ts';
import { RingDriver } from '../../support/ring-driver.ts';
import { Driver, ringsGpa } from '../../unit/support/driver.ts';
import { FakeVm } from '../../unit/support/fake-host.ts';

export const RAM_BYTES = 16 * MIB;

/** Where requests have their buffers, a page each. */
const BUFFERS_GPA = 0x20_0000;
const PAGE_BYTES = 4096;

export const turn = (): Promise<void> => new Promise((resolve) => setImmediate(resolve));

export function newRam(): GuestMemory {
  const memory = new native.GuestMemory();
  memory.addRegion({ gpa: 0, sizeBytes: RAM_BYTES, shared: false, thp: false });
  return memory;
}

/** What a driver asks of a queue: bytes that the device may read, and room that it may fill. */
export interface Request {
  queue: number;
  readableBytes: number;
  writableBytes: number;
}

export class Rig implements AsyncDisposable {
  readonly memory: GuestMemory;
  readonly driver: Driver;
  readonly #device: VirtioDevice;
  readonly #rings: RingDriver[] = [];
  readonly #firstRing: number;

  /** Rigs that share RAM have their rings at different places: `index` says which. */
  constructor(device: VirtioDevice, { memory = newRam(), vm = new FakeVm(), index = 0 } = {}) {
    this.#device = device;
    this.memory = memory;
    this.#firstRing = 4 * index;
    const bar = { width: 64, gpa: 0xff_ff80_0000 - index * 8 * MIB } as const;
    this.driver = new Driver(device, { vm, bar, core: { memory, native } });
  }

  /** As every driver should; the rings are empty. */
  start({ at = (queue: number) => ringsGpa(this.#firstRing + queue) } = {}): void {
    const { driver, memory } = this;
    driver.negotiate();
    driver.enableMsix();
    driver.set('configVector', 0);
    for (const [queue, size] of this.#device.queueSizes.entries()) {
      this.#rings[queue]?.close();
      this.#rings[queue] = new RingDriver(memory, { size, ringsGpa: at(queue) });
      this.#clear(at(queue));
      driver.setUpQueue(queue, { gpa: at(queue) });
    }
    driver.set('status', 0xf);
  }

  ring(queue: number): RingDriver {
    const ring = this.#rings[queue];
    if (!ring) throw new Error(`Queue ${queue} is not set up`);
    return ring;
  }

  /** Makes `count` requests available, each with a head of its own, and kicks. */
  send({ queue, readableBytes, writableBytes }: Request, count = 1): void {
    const ring = this.ring(queue);
    for (let i = 0; i < count; i++) {
      const gpa = BUFFERS_GPA + 2 * PAGE_BYTES * i;
      const readable = { gpa, sizeBytes: readableBytes };
      const writable = { gpa: gpa + PAGE_BYTES, sizeBytes: writableBytes, write: true };
      ring.describe(2 * i, [
        ...(readableBytes > 0 ? [readable] : []),
        ...(writableBytes > 0 ? [writable] : []),
      ]);
      ring.offer(2 * i);
    }
    this.driver.kick(queue);
  }

  /** How many requests have come back since the last time, waited for a while. */
  async served(queue: number, atLeast: number): Promise<number> {
    let count = 0;
    for (const end = Date.now() + 2000; count < atLeast && Date.now() < end; await turn())
      count += this.ring(queue).used().length;
    return count;
  }

  /** Whether the device answers a request. */
  async answers(request: Request): Promise<boolean> {
    this.send(request);
    return (await this.served(request.queue, 1)) === 1;
  }

  /** All of the RAM that requests and rings lie in. */
  snapshot(): Buffer {
    const bytes = Buffer.alloc(4 * MIB);
    this.memory.read(0, bytes);
    return bytes;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.driver.pci[Symbol.asyncDispose]();
    for (const ring of this.#rings) ring.close();
  }

  #clear(gpa: number): void {
    if (gpa + 3 * PAGE_BYTES <= RAM_BYTES) this.memory.write(gpa, new Uint8Array(3 * PAGE_BYTES));
  }
}
