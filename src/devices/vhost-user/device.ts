/**
 * What all devices have in common whose queues a backend serves in a process of its own: it shares
 * the guest's RAM, is woken by the driver's kicks and interrupts it, and nothing of that comes
 * through here. A backend that is lost costs this device and no other: it stands still until the
 * backend is back, or, where requests would be lost, asks its driver for a reset.
 */
import { closeSync } from 'node:fs';
import { hex } from '../../bytes.ts';
import type { FileWindow, SharedQueue } from '../../native-vhost.ts';
import type { DeviceContext } from '../device.ts';
import {
  type Activation,
  F_EVENT_IDX,
  F_INDIRECT_DESC,
  F_VERSION_1,
  type VirtioDevice,
} from '../virtio/device.ts';
import { Backend, type BackendPlace, unusable } from './backend.ts';
import type { Frontend, InflightNote } from './frontend.ts';

import { REGIONS_MAX } from './protocol.ts';
import { SharedMemory } from './shared-memory.ts';

/** For all the answers that a start or a stop takes together. */
const WORK_TIMEOUT_MS = 10_000;

/** For requests that a backend had taken when it was stopped. */
const DRAIN_TIMEOUT_MS = 2000;
const DRAIN_POLL_MS = 2;

/** Bits 24 to 49 are the transport's, and of these we know two. VIRTIO 1.2 §6. */
const DEVICE_BITS = 0xff_ffffn | (0x3fffn << 50n);
const TRANSPORT_BITS = F_INDIRECT_DESC | F_EVENT_IDX;

/** What one kind of device has of its own. */
export interface Personality extends BackendPlace {
  virtioId: number;
  queueSizes: readonly number[];
  /** Of the device's own features, those that are offered if the backend has them. */
  features: bigint;
  /** Offered whatever the backend says: they are the driver's business alone. */
  driverFeatures?: bigint;
  /** The configuration space: ours, or so many bytes of the backend's. */
  config: Uint8Array | number;
  /** A backend without that has none. */
  isConfigOptional?: true;
  /** Makes the backend's agree with what we show of it. */
  adjust?(config: Uint8Array): void;
  /** A backend that knows nothing of its predecessor goes on as well, if nothing was under way. */
  isStateless?: true;
  /** Of region 0, which the backend puts files into; a multiple of 4 KiB. None if absent. */
  sharedMemoryBytes?: number | undefined;
  /** Whether a driver may write there. */
  isWritable?(offset: number, sizeBytes: number): boolean;
}

export type VhostUserContext = Pick<DeviceContext, 'id' | 'memory' | 'onWarning'>;

interface Parts {
  features: bigint;
  config: Uint8Array;
  sharedMemory: SharedMemory | undefined;
}

/** From DRIVER_OK to reset. */
interface Run {
  activation: Activation;
  queues: readonly (SharedQueue | undefined)[];
  /** By queue, where it was stopped; what is not known is in the ring. */
  bases: (number | undefined)[];
  note: InflightNote | undefined;
  state: 'new' | 'started' | 'stopped' | 'dead';
}

export class VhostUserDevice implements VirtioDevice {
  readonly virtioId: number;
  readonly features: bigint;
  readonly queueSizes: readonly number[];
  readonly regionsMax = REGIONS_MAX;
  readonly config: Uint8Array;
  readonly #personality: Personality;
  readonly #context: VhostUserContext;
  readonly #backend: Backend;
  readonly #sharedMemory: SharedMemory | undefined;
  /** Of `features`, those that the backend has. */
  readonly #features: bigint;
  #run: Run | undefined;
  #isPaused = false;
  /** One conversation at a time. Never rejects. */
  #turn: Promise<void> = Promise.resolve();
  #isSyncing = false;
  /** What the driver has written of `config` and the backend does not know yet. */
  #dirty: { start: number; end: number } | undefined;
  #reconnects = 0;

  private constructor(
    personality: Personality,
    context: VhostUserContext,
    backend: Backend,
    parts: Parts,
  ) {
    this.virtioId = personality.virtioId;
    this.queueSizes = personality.queueSizes;
    this.#features = parts.features;
    this.features = parts.features | (personality.driverFeatures ?? 0n);
    this.config = parts.config;
    this.#sharedMemory = parts.sharedMemory;
    this.#personality = personality;
    this.#context = context;
    this.#backend = backend;
  }

  /**
   * Resolves when the backend has said what it offers.
   * @throws VmmError 'invalid-config' or 'host' if there is none, or none for such a device.
   */
  static async open(personality: Personality, context: VhostUserContext): Promise<VhostUserDevice> {
    let device: VhostUserDevice | undefined;
    const sharedMemory = openSharedMemory(personality);
    const opening = Backend.open({
      ...personality,
      sharedMemory,
      check: (frontend) => checkFit(personality, frontend, device ? device.#features : 0n),
      onConfigChanged: () => {
        if (device) device.#sync();
      },
      onLost: (reason) => {
        if (device) device.#onLost(reason);
      },
      onBack: () => {
        if (device) device.#onBack();
      },
    });
    const backend = await opening.catch((error) => {
      sharedMemory?.close();
      throw error;
    });
    try {
      const { frontend } = backend;
      if (!frontend) throw new Error('the backend went away');
      const config = await readConfig(personality, frontend);
      const wanted = (personality.features & DEVICE_BITS) | TRANSPORT_BITS;
      const features = frontend.features & wanted;
      device = new VhostUserDevice(personality, context, backend, {
        features,
        config,
        sharedMemory,
      });
      return device;
    } catch (error) {
      backend.close();
      sharedMemory?.close();
      throw unusable(personality, error as Error);
    }
  }

  get sharedMemory(): FileWindow | undefined {
    return this.#sharedMemory?.window;
  }

  writeConfig(offset: number, sizeBytes: number, value: number): void {
    if (!this.#personality.isWritable?.(offset, sizeBytes)) return;
    for (let i = 0; i < sizeBytes; i++) this.config[offset + i] = (value >>> (8 * i)) & 0xff;
    const { start, end } = this.#dirty ?? { start: offset, end: offset };
    this.#dirty = { start: Math.min(start, offset), end: Math.max(end, offset + sizeBytes) };
    this.#sync();
  }

  activate(activation: Activation): void {
    const queues = activation.queues.map((queue) => queue?.share());
    const run: Run = { activation, queues, bases: [], note: undefined, state: 'new' };
    this.#run = run;
    void this.#converse((frontend) => this.#start(frontend, run));
  }

  /** A backend that does not answer is given up, so this ends in any case. */
  async reset(): Promise<void> {
    const run = this.#run;
    if (!run) return;
    await this.#converse((frontend) => this.#stop(frontend, run));
    await this.#sharedMemory?.clear();
    this.#run = undefined;
    this.#dirty = undefined;
    for (const queue of run.queues) queue?.close();
    if (run.note) closeSync(run.note.fd);
  }

  async pause(): Promise<void> {
    this.#isPaused = true;
    const run = this.#run;
    if (run) await this.#converse((frontend) => this.#stop(frontend, run));
  }

  resume(): void {
    this.#isPaused = false;
    const run = this.#run;
    if (run) void this.#converse((frontend) => this.#start(frontend, run));
  }

  /** A backend that does not run, or is away, hears of it when it starts. */
  memoryChanged(): Promise<void> {
    return this.#converse(async (frontend) => {
      if (this.#run?.state !== 'started') return;
      await frontend.setMemory(this.#context.memory.regions());
      await frontend.settle();
    });
  }

  counters(): Readonly<Record<string, number>> {
    return { reconnects: this.#reconnects };
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.reset();
    this.#backend.close();
    this.#sharedMemory?.close();
  }

  async #start(frontend: Frontend, run: Run): Promise<void> {
    if (this.#run !== run || this.#isPaused) return;
    if (run.state !== 'new' && run.state !== 'stopped') return;
    const isAgain = run.state === 'stopped';
    run.state = 'started'; // from here on requests may be lost with the backend
    if (run.note && !frontend.hasInflight) throw new Error('it cannot go on where another stopped');
    const features = (run.activation.features & this.#features) | F_VERSION_1;
    await frontend.begin(features, this.#context.memory.regions());
    if (frontend.hasInflight) {
      run.note ??= await frontend.inflightNote(run.queues.length, Math.max(...this.queueSizes));
      await frontend.setInflight(run.note);
    }
    for (const [n, queue] of run.queues.entries()) {
      if (!queue) continue;
      await frontend.startQueue(n, queue, run.bases[n] ?? this.#usedIndex(queue));
      // Its predecessor may have finished requests without a word.
      if (isAgain) queue.interrupt();
    }
    await frontend.settle();
  }

  async #stop(frontend: Frontend, run: Run): Promise<void> {
    if (run.state !== 'started') return;
    for (const [n, queue] of run.queues.entries())
      if (queue) run.bases[n] = await frontend.stopQueue(n);
    await this.#drained(run);
    run.state = 'stopped';
  }

  /** Some backends answer that a queue stands still when the last requests are yet to finish. */
  async #drained({ queues, bases }: Run): Promise<void> {
    const late = Date.now() + DRAIN_TIMEOUT_MS;
    for (const [n, queue] of queues.entries())
      while (queue && this.#usedIndex(queue) !== bases[n] && Date.now() < late)
        await new Promise((resolve) => setTimeout(resolve, DRAIN_POLL_MS));
  }

  /** Whether every request is finished. */
  #isIdle({ queues }: Run): boolean {
    return queues.every(
      (queue) => !queue || this.#index(queue.availGpa) === this.#usedIndex(queue),
    );
  }

  /** How many requests were finished in all, modulo 2^16. */
  #usedIndex = ({ usedGpa }: SharedQueue): number => this.#index(usedGpa);

  /** Of a ring, VIRTIO 1.2 §2.7.6 and §2.7.8. */
  #index(ringGpa: number): number {
    const bytes = new Uint8Array(2);
    this.#context.memory.read(ringGpa + 2, bytes);
    return Buffer.from(bytes).readUInt16LE();
  }

  #onLost(reason: Error): void {
    this.#warn(`Its backend at ${this.#personality.socket} is lost: ${reason.message}`);
    const run = this.#run;
    if (run?.state !== 'started') return;
    const isIdle = this.#personality.isStateless && this.#isIdle(run);
    run.state = run.note || isIdle ? 'stopped' : 'dead';
    run.bases = [];
    if (run.state === 'dead') run.activation.needsReset('Requests are lost with its backend');
  }

  #onBack(): void {
    this.#reconnects++;
    this.#warn(`Its backend at ${this.#personality.socket} is back`);
    const run = this.#run;
    if (run) void this.#converse((frontend) => this.#start(frontend, run));
    this.#sync();
  }

  /** Both ways; however often it is asked for, it waits for its turn once. */
  #sync(): void {
    if (this.#isSyncing) return;
    this.#isSyncing = true;
    void this.#converse(async (frontend) => {
      this.#isSyncing = false;
      const dirty = this.#dirty;
      this.#dirty = undefined;
      if (dirty) await frontend.setConfig(dirty.start, this.config.slice(dirty.start, dirty.end));
      const now = await readConfig(this.#personality, frontend);
      if (this.#dirty || Buffer.compare(now, this.config) === 0) return;
      this.config.set(now);
      this.#run?.activation.configChanged();
    });
  }

  /** Whatever goes wrong costs the backend, which is given up then. */
  #converse(work: (frontend: Frontend) => Promise<void>): Promise<void> {
    this.#turn = this.#turn.then(async () => {
      const { frontend } = this.#backend;
      if (!frontend) {
        this.#isSyncing = false;
        return;
      }
      const lose = (reason: Error) => this.#backend.lose(frontend, reason);
      const late = new Error(`it takes more than ${WORK_TIMEOUT_MS} ms`);
      const timer = setTimeout(() => lose(late), WORK_TIMEOUT_MS);
      await work(frontend).catch(lose);
      clearTimeout(timer);
    });
    return this.#turn;
  }

  #warn(message: string): void {
    this.#context.onWarning(`Device ${this.#context.id}: ${message}`);
  }
}

/** @throws VmmError 'host' if there are no addresses left for it. */
function openSharedMemory(personality: Personality): SharedMemory | undefined {
  const { sharedMemoryBytes } = personality;
  try {
    return sharedMemoryBytes === undefined ? undefined : new SharedMemory(sharedMemoryBytes);
  } catch (error) {
    throw unusable(personality, error as Error);
  }
}

/** @throws Error, with what is missing. */
function checkFit(personality: Personality, frontend: Frontend, features: bigint): void {
  const { queueSizes, config, isConfigOptional } = personality;
  if (queueSizes.length > frontend.queuesMax)
    throw new Error(
      `the device has ${queueSizes.length} queues, the backend ${frontend.queuesMax}`,
    );
  if ((frontend.features & F_VERSION_1) === 0n) throw new Error('the backend knows no VIRTIO 1');
  const missing = features & ~frontend.features;
  if (missing !== 0n) throw new Error(`the backend lacks features ${hex(missing)}`);
  if (typeof config === 'number' && !isConfigOptional && !frontend.hasConfig)
    throw new Error('the backend has no configuration space');
}

/** @throws Error if the backend has not got what the device needs of it. */
async function readConfig(personality: Personality, frontend: Frontend): Promise<Uint8Array> {
  const { config: own, isConfigOptional, adjust } = personality;
  if (typeof own !== 'number') return own;
  const config = await frontend.config(own);
  if (!config && isConfigOptional) return new Uint8Array(0);
  if (!config) throw new Error(`the backend has no ${own} bytes of configuration`);
  adjust?.(config);
  return config;
}
