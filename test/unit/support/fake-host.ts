/**
 * What a virtio function needs of the native core, in JavaScript and without a guest: requests are
 * put into queues by the test, kicks and interrupts are counted.
 */
import type {
  Chain,
  Claim,
  EventFd,
  GuestMemory,
  LateHandler,
  Later,
  Msi,
  Virtqueue,
  VirtqueueOptions,
  Vm,
} from '../../../src/native.ts';
import type { IoDomains } from '../../../src/native-iommu.ts';
import type { FileWindow } from '../../../src/native-vhost.ts';

/** What is there at once, as it must be of whoever is no other process. */
export function atOnce(answer: Later<number>): number {
  if (typeof answer !== 'number') throw new Error('It comes later');
  return answer;
}

export class FakeEventFd implements EventFd {
  readonly fd = -1;
  /** How often it was ever signalled. */
  signalCount = 0;
  isClosed = false;
  /** Instead of whoever polls it. */
  onSignal: (() => void) | undefined;
  #isPending = false;

  signal(): void {
    this.signalCount++;
    this.#isPending = true;
    this.onSignal?.();
  }

  take(): boolean {
    const was = this.#isPending;
    this.#isPending = false;
    return was;
  }

  pending(): boolean {
    return this.#isPending;
  }

  close(): void {
    this.isClosed = true;
  }
}

/** What the system calls of a vector would have been, in order. */
type MsiCall = { low: number; high: number; data: number } | 'mask' | 'unmask' | 'close';

/** Messages that an unmasked vector has sent are in `sent`. */
export class FakeMsi implements Msi {
  readonly calls: MsiCall[] = [];
  readonly sent: number[] = [];
  readonly #irq: FakeEventFd;
  #data = 0;
  #isMasked = true;

  constructor(irq: FakeEventFd) {
    this.#irq = irq;
    irq.onSignal = () => this.#send();
  }

  route({ low, high }: { low: number; high: number }, data: number): void {
    this.calls.push({ low, high, data });
    this.#data = data;
  }

  mask(masked: boolean): void {
    this.calls.push(masked ? 'mask' : 'unmask');
    this.#isMasked = masked;
    this.#send();
  }

  async close(): Promise<void> {
    this.calls.push('close');
  }

  #send(): void {
    if (!this.#isMasked && this.#irq.take()) this.sent.push(this.#data);
  }
}

/** A request of the test's. `done` resolves to what the device wrote. */
export class FakeChain implements Chain {
  readonly done: Promise<Uint8Array>;
  readonly #readable: Uint8Array;
  readonly #writable: Uint8Array;
  #finish: ((bytes: Uint8Array) => void) | undefined;
  completeCount = 0;

  constructor(readable: Uint8Array, writableBytes: number) {
    this.#readable = readable;
    this.#writable = new Uint8Array(writableBytes);
    this.done = new Promise((resolve) => {
      this.#finish = resolve;
    });
  }

  get readableBytes(): number {
    return this.#readable.length;
  }

  get writableBytes(): number {
    return this.#writable.length;
  }

  read(into: Uint8Array, offset = 0): number {
    const bytes = this.#readable.subarray(offset, offset + into.length);
    into.set(bytes);
    return bytes.length;
  }

  write(from: Uint8Array, offset = 0): number {
    const bytes = from.subarray(0, Math.max(0, this.#writable.length - offset));
    this.#writable.set(bytes, offset);
    return bytes.length;
  }

  /** As if the room were the first of RAM. */
  writableRanges(): Float64Array {
    return Float64Array.of(0, this.#writable.length);
  }

  complete(writtenBytes: number): void {
    this.completeCount++;
    this.#finish?.(this.#writable.subarray(0, writtenBytes));
    this.#finish = undefined;
  }
}

export class FakeVirtqueue implements Virtqueue {
  readonly options: VirtqueueOptions;
  isClosed = false;
  #waiting: FakeChain[] = [];
  readonly #out = new Set<FakeChain>();
  #handler: (() => void) | undefined;
  #isPaused = false;
  #onDrained: (() => void)[] = [];

  constructor(options: VirtqueueOptions) {
    this.options = options;
    (options.kick as FakeEventFd).onSignal = () => queueMicrotask(() => this.#run());
  }

  /** The driver makes it available; a kick has to follow. */
  push(chain: FakeChain): void {
    this.#waiting.push(chain);
  }

  /** Handed out, and not given back. */
  get outCount(): number {
    return this.#out.size;
  }

  /** Chains that the device has not taken. */
  get waitingCount(): number {
    return this.#waiting.length;
  }

  /** As the core would on finding a rule broken. */
  breakDown(reason: string): void {
    this.options.onBroken(reason);
  }

  onKick(handler: () => void): void {
    this.#handler = handler;
    queueMicrotask(() => this.#run());
  }

  /** Whose requests vCPUs may serve. */
  sharedWith: IoDomains | undefined;

  shareKicks(domains: IoDomains): void {
    this.sharedWith = domains;
  }

  take(): Chain | undefined {
    if (this.isClosed || this.#isPaused) return undefined;
    const chain = this.#waiting.shift();
    if (!chain) return undefined;
    this.#out.add(chain);
    return this.#handedOut(chain);
  }

  pause(): Promise<void> {
    this.#isPaused = true;
    if (this.#out.size === 0) return Promise.resolve();
    return new Promise((resolve) => {
      this.#onDrained.push(resolve);
    });
  }

  resume(): void {
    this.#isPaused = false;
    queueMicrotask(() => this.#run());
  }

  /** Only a real one lies in RAM that another process could map. */
  share(): never {
    throw new Error('A fake queue cannot be shared');
  }

  close(): void {
    this.isClosed = true;
    this.#waiting = [];
    this.#out.clear();
    this.#drained();
  }

  #run(): void {
    if (!this.isClosed && !this.#isPaused && this.#waiting.length > 0) this.#handler?.();
  }

  /** What a chain does through this queue: nothing once it was given back, or after `close`. */
  #handedOut(chain: FakeChain): Chain {
    const isOut = () => this.#out.has(chain);
    return {
      readableBytes: chain.readableBytes,
      writableBytes: chain.writableBytes,
      read: (into, offset) => (isOut() ? chain.read(into, offset) : 0),
      write: (from, offset) => (isOut() ? chain.write(from, offset) : 0),
      writableRanges: () => chain.writableRanges(),
      complete: (writtenBytes) => {
        if (!this.#out.delete(chain)) return;
        chain.complete(writtenBytes);
        this.options.irq.signal();
        this.#drained();
      },
    };
  }

  #drained(): void {
    if (this.#out.size > 0) return;
    for (const resolve of this.#onDrained.splice(0)) resolve();
  }
}

/** Guest RAM that holds nothing: queues of the test are not in it. */
export const NO_MEMORY: GuestMemory = {
  addRegion: () => {},
  removeRegion: async () => {},
  read: () => {},
  write: () => {},
  load: async () => {},
  prefault: async () => {},
  discard: async () => {},
  regions: () => [],
  close: async () => {},
};

type HostVm = Pick<
  Vm,
  | 'claim'
  | 'release'
  | 'attachKick'
  | 'detachKick'
  | 'claimKick'
  | 'releaseKick'
  | 'attachWindow'
  | 'detachWindow'
  | 'msi'
>;

/** The address space of a guest: MMIO ranges that are claimed, and kicks that the kernel takes. */
export class FakeVm implements HostVm {
  readonly msis: FakeMsi[] = [];
  readonly kicks = new Map<number, EventFd>();
  readonly claims: (Claim & { handler: LateHandler })[] = [];
  /** As if the host had no more of what this is called with. */
  refuse: (what: 'kick' | 'msi' | 'window') => boolean = () => false;

  claim(claim: Claim, handler: LateHandler): void {
    const overlaps = this.claims.some(
      ({ base, sizeBytes }) => claim.base < base + sizeBytes && base < claim.base + claim.sizeBytes,
    );
    if (overlaps) throw new Error('EEXIST: File exists, claim');
    this.claims.push({ ...claim, handler });
  }

  release({ base }: Claim): void {
    const at = this.claims.findIndex((claim) => claim.base === base);
    if (at >= 0) this.claims.splice(at, 1);
  }

  /** Where each is. */
  readonly windows = new Map<FileWindow, number>();

  attachWindow(gpa: number, window: FileWindow): void {
    if (this.refuse('window')) throw new Error('EEXIST: File exists');
    this.windows.set(window, gpa);
  }

  detachWindow(window: FileWindow): void {
    this.windows.delete(window);
  }

  /** Guest RAM of the tests is in no VM. */
  mapMemory(): void {}

  attachKick(gpa: number, kick: EventFd): void {
    if (this.kicks.has(gpa)) throw new Error('EEXIST: File exists, ioctl(KVM_IOEVENTFD)');
    if (this.refuse('kick')) throw new Error('ENOSPC: No space left on device');
    this.kicks.set(gpa, kick);
  }

  /** A detachment without its attachment would be a bug. */
  detachKick(gpa: number, kick: EventFd): void {
    if (this.kicks.get(gpa) !== kick) throw new Error('ENOENT: No such file or directory');
    this.kicks.delete(gpa);
  }

  /** Whose requests vCPUs serve that kick there; here they leave all to whoever is kicked. */
  readonly served = new Map<number, IoDomains>();

  claimKick(gpa: number, kick: EventFd, domains: IoDomains): void {
    this.attachKick(gpa, kick);
    this.served.set(gpa, domains);
  }

  releaseKick(gpa: number): void {
    this.kicks.delete(gpa);
    this.served.delete(gpa);
  }

  msi(irq: EventFd): Msi {
    if (this.refuse('msi')) throw new Error('ENOSPC: No space left on device');
    const msi = new FakeMsi(irq as FakeEventFd);
    this.msis.push(msi);
    return msi;
  }

  read(gpa: number, sizeBytes: number): number {
    return atOnce(this.readLater(gpa, sizeBytes));
  }

  readLater(gpa: number, sizeBytes: number): Later<number> {
    const claim = this.#claimAt(gpa);
    return claim ? claim.handler.read(gpa - claim.base, sizeBytes) : 2 ** (8 * sizeBytes) - 1;
  }

  write(gpa: number, sizeBytes: number, value: number): void {
    void this.writeLater(gpa, sizeBytes, value);
  }

  writeLater(gpa: number, sizeBytes: number, value: number): Later<void> {
    const kick = this.kicks.get(gpa);
    if (kick) {
      kick.signal();
      return;
    }
    const claim = this.#claimAt(gpa);
    return claim?.handler.write(gpa - claim.base, sizeBytes, value);
  }

  #claimAt(gpa: number) {
    return this.claims.find(({ base, sizeBytes }) => gpa >= base && gpa < base + sizeBytes);
  }
}
