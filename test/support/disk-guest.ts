/** A disk and its driver: the device with its data plane on a real image, without a VM. */
import { normalise } from '../../src/api/dialects.ts';
import { Block, type DiskConfig } from '../../src/devices/virtio/block.ts';
import { type GuestMemory, native, type Virtqueue } from '../../src/native.ts';
import { until } from './micro-guest.ts';
import { RingDriver } from './ring-driver.ts';

export const SECTOR_BYTES = 512;
const HEADER_GPA = 0x2_0000;
const STATUS_GPA = 0x2_2000;
/** The last, so that there is room for much. */
const DATA_GPA = 0x3_0000;

export const FLUSH = 1n << 9n;

// Request types and answers, VIRTIO 1.2 §5.2.6.
export const [IN, OUT, FLUSH_ALL, GET_ID, DISCARD, WRITE_ZEROES] = [0, 1, 4, 8, 11, 13];
export const [OK, IOERR, UNSUPP] = [0, 1, 2];

export function diskConfig(body: object): DiskConfig {
  const [config] = normalise({ disks: [body] }).config.disks as DiskConfig[];
  if (!config) throw new Error('No disk');
  return config;
}

export class DiskGuest {
  readonly disk: Block;
  readonly warnings: string[] = [];
  #memory: GuestMemory;
  #driver: RingDriver;
  #queue: Virtqueue | undefined;

  constructor(body: object) {
    const onWarning = (message: string) => void this.warnings.push(message);
    this.disk = new Block(diskConfig(body), {
      ...{ id: '_disk0', onWarning },
      rateLimitGroups: new Map(),
    });
    this.#memory = new native.GuestMemory();
    this.#memory.addRegion({ gpa: 0, sizeBytes: 1 << 20, shared: false, thp: false });
    this.#driver = new RingDriver(this.#memory);
  }

  /** The driver is ready, having taken so much of what was offered. */
  activate(features = FLUSH): this {
    this.#queue = this.#driver.device();
    const unexpected = (reason = 'config changed') => {
      throw new Error(reason);
    };
    const calls = { configChanged: unexpected, needsReset: unexpected };
    this.disk.activate({ features, queues: [this.#queue], ...calls });
    return this;
  }

  /** Whatever the driver had set up is gone; `activate` is another's. */
  async reset(): Promise<void> {
    await this.disk.reset();
    this.#queue?.close();
    this.#driver.close();
    this.#driver = new RingDriver(this.#memory);
    this.#memory.write(0x1_0000, new Uint8Array(0x3000));
  }

  /** Makes one request. Returns the status, and what came into the buffer. */
  async ask(type: number, sector: number, data: Uint8Array = new Uint8Array(SECTOR_BYTES)) {
    const header = new DataView(new ArrayBuffer(16));
    header.setUint32(0, type, true);
    header.setBigUint64(8, BigInt(sector), true);
    this.#memory.write(HEADER_GPA, new Uint8Array(header.buffer));
    this.#memory.write(DATA_GPA, data);
    this.#memory.write(STATUS_GPA, Uint8Array.of(0xee));
    const toDriver = type === IN || type === GET_ID;
    this.#driver.send(0, [
      { gpa: HEADER_GPA, sizeBytes: header.byteLength },
      ...(type === FLUSH_ALL ? [] : [{ gpa: DATA_GPA, sizeBytes: data.length, write: toDriver }]),
      { gpa: STATUS_GPA, sizeBytes: 1, write: true },
    ]);
    await until(() => this.#driver.used().length === 1);
    const [status, got] = [new Uint8Array(1), new Uint8Array(data.length)];
    this.#memory.read(STATUS_GPA, status);
    this.#memory.read(DATA_GPA, got);
    return { status: status[0], got };
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.disk[Symbol.asyncDispose]();
    this.#queue?.close();
    this.#driver.close();
    await this.#memory.close();
  }
}

/** What DISCARD and WRITE_ZEROES are told: so many sectors, no flags. */
export function range(sector: number, sectors = 1): Uint8Array {
  const segment = new DataView(new ArrayBuffer(16));
  segment.setBigUint64(0, BigInt(sector), true);
  segment.setUint32(8, sectors, true);
  return new Uint8Array(segment.buffer);
}
