/**
 * The device that a server of vfio-user has, over one connection. Once that is over, for the server
 * has gone, is late or lied, the device answers as an empty slot does, for good.
 */
import { allOnes, Reader } from '../../bytes.ts';
import { closeAll } from '../../fd-messages.ts';
import type { EventFd, GuestMemory } from '../../native.ts';
import { type Passthrough, VFIO, type VfioArea } from '../../native-vfio.ts';
import type { SharedRegion } from '../../native-vhost.ts';
import { BAR_COUNT, FUNCTION_BYTES, SPACE_BYTES } from '../pci/config-space.ts';
import type { VfioBackend } from '../vfio/device.ts';
import { type Answer, Channel, RefusedError } from './channel.ts';
import {
  type CommandName,
  checkWritten,
  decodeInfo,
  decodeIrqInfo,
  decodeRead,
  decodeRegionInfo,
  decodeVersion,
  encodeDmaMap,
  encodeDmaUnmap,
  encodeGetInfo,
  encodeGetIrqInfo,
  encodeGetRegionInfo,
  encodeRead,
  encodeSetIrqs,
  encodeVersion,
  encodeWrite,
  IRQ_TRIGGER,
  IRQ_UNMASK,
  ProtocolError,
  type RegionAccess,
  type UserRegion,
} from './protocol.ts';

/** For all that is asked until the guest may have it. */
const OPEN_TIMEOUT_MS = 5000;
/** Reads of its configuration space that are under way at a time. */
const READS_AT_ONCE = 32;

export interface UserBackendOptions {
  guest: Pick<Passthrough, 'mapFile'>;
  memory: Pick<GuestMemory, 'regions'>;
  onWarning(message: string): void;
  /** Once: why it is over. Not while it opens, nor after `close`. */
  onLost(reason: Error): void;
}

export class UserBackend implements VfioBackend {
  readonly regions: UserRegion[] = [];
  readonly irqCounts: number[] = [];
  readonly #options: UserBackendOptions;
  readonly #channel: Channel;
  /** By region: the file that can be mapped. */
  readonly #files = new Map<number, number>();
  #config: Uint8Array = new Uint8Array(0);
  #fdsMax = 1;
  #resets = false;
  #isOpen = false;
  /** What it knows of the guest's memory. */
  #mapped: readonly SharedRegion[] = [];
  readonly #pending = new Set<Promise<void>>();
  #irqTurn: Promise<void> = Promise.resolve();
  #memoryTurn: Promise<void> = Promise.resolve();
  #closed: Promise<void> | undefined;

  private constructor(fd: number, options: UserBackendOptions) {
    this.#options = options;
    this.#channel = new Channel(fd, (reason) => {
      if (this.#isOpen) options.onLost(reason);
    });
  }

  /**
   * Asks for all that there is to know, resets the device, and gives it the guest's memory.
   * @param fd is a connection, ours from now on.
   * @throws Error if who is at its other end is no fit server, and nothing is left.
   */
  static async open(fd: number, options: UserBackendOptions): Promise<UserBackend> {
    const backend = new UserBackend(fd, options);
    const late = new Error(`it is not ready within ${OPEN_TIMEOUT_MS} ms`);
    const timer = setTimeout(() => backend.#channel.fail(late), OPEN_TIMEOUT_MS);
    try {
      await backend.#describe();
      if (backend.#resets) await backend.reset();
      await backend.#follow();
      backend.#config = await backend.#readConfig();
      backend.#isOpen = true;
      return backend;
    } catch (error) {
      backend.#end();
      throw error;
    } finally {
      clearTimeout(timer);
    }
  }

  async readConfig(): Promise<Uint8Array> {
    return this.#config;
  }

  async read(region: number, offset: number, sizeBytes: number): Promise<number> {
    try {
      const fields = new Reader(await this.#read({ region, offset, sizeBytes }));
      if (sizeBytes === 4) return fields.u32(0);
      return sizeBytes === 2 ? fields.u16(0) : fields.u8(0);
    } catch {
      return allOnes(sizeBytes);
    }
  }

  write(region: number, offset: number, sizeBytes: number, value: number): Promise<void> {
    return this.#track(async () => {
      const access = { region, offset, sizeBytes };
      const { payload } = await this.#channel.ask('regionWrite', encodeWrite(access, value));
      this.#checked(() => checkWritten(payload, access));
    });
  }

  map(gpa: number, region: number, { offset, sizeBytes }: VfioArea): number {
    const start = (this.regions[region]?.fileOffset ?? 0) + offset;
    return this.#options.guest.mapFile(gpa, this.#files.get(region) ?? -1, start, sizeBytes);
  }

  setIrqs(index: number, events: readonly EventFd[]): void {
    this.#setIrqs(IRQ_TRIGGER, index, events);
  }

  setUnmask(event: EventFd): void {
    this.#setIrqs(IRQ_UNMASK, VFIO.intx, [event]);
  }

  settled(): Promise<void> | undefined {
    return this.#pending.size === 0 ? undefined : Promise.all(this.#pending).then(() => {});
  }

  /** The protocol knows no such request. */
  onRequest(): void {}

  /** A server that does not follow is let go of. */
  memoryChanged(): Promise<void> {
    this.#memoryTurn = this.#memoryTurn.then(async () => {
      try {
        await this.#follow();
      } catch (error) {
        this.#channel.fail(error as Error);
      }
    });
    return this.#memoryTurn;
  }

  async reset(): Promise<void> {
    if (!this.#resets) throw new Error('it has no reset');
    await this.#channel.ask('reset');
  }

  close(): Promise<void> {
    this.#closed ??= this.#close();
    return this.#closed;
  }

  async #close(): Promise<void> {
    await this.reset().catch(() => {});
    this.#end();
  }

  #end(): void {
    this.#channel.close();
    closeAll([...this.#files.values()]);
    this.#files.clear();
  }

  async #describe(): Promise<void> {
    this.#fdsMax = decodeVersion(
      (await this.#channel.ask('version', encodeVersion())).payload,
    ).fdsMax;
    const info = decodeInfo((await this.#channel.ask('getInfo', encodeGetInfo())).payload);
    this.#resets = info.resets;
    for (let index = 0; index <= VFIO.configRegion; index++)
      this.regions.push(await this.#describeRegion(index));
    const configBytes = this.regions[VFIO.configRegion]?.sizeBytes ?? 0;
    if (configBytes < SPACE_BYTES)
      throw new ProtocolError(`a configuration space of ${configBytes} bytes`);
    for (const index of [VFIO.intx, VFIO.msi, VFIO.msix]) {
      const answer =
        index < info.irqKinds && (await this.#askMaybe('getIrqInfo', encodeGetIrqInfo(index)));
      this.irqCounts[index] = answer ? decodeIrqInfo(answer.payload, index) : 0;
    }
  }

  /** The ROM is left out: a guest does not see it. */
  async #describeRegion(index: number): Promise<UserRegion> {
    const none: UserRegion = { sizeBytes: 0, fileOffset: 0, areas: [] };
    if (index >= BAR_COUNT && index !== VFIO.configRegion) return none;
    const answer = await this.#askMaybe('getRegionInfo', encodeGetRegionInfo(index), true);
    if (!answer) return none;
    const [fd] = answer.fds;
    if (fd !== undefined) this.#files.set(index, fd);
    return decodeRegionInfo(answer.payload, index, answer.fds.length);
  }

  /** Undefined if the server says that it has no such thing. */
  async #askMaybe(
    name: CommandName,
    payload: Uint8Array,
    mayHaveFds = false,
  ): Promise<Answer | undefined> {
    try {
      return await this.#channel.ask(name, payload, { mayHaveFds });
    } catch (error) {
      if (error instanceof RefusedError) return undefined;
      throw error;
    }
  }

  async #readConfig(): Promise<Uint8Array> {
    const ownBytes = this.regions[VFIO.configRegion]?.sizeBytes ?? 0;
    const bytes = new Uint8Array(ownBytes < FUNCTION_BYTES ? SPACE_BYTES : FUNCTION_BYTES);
    const readDword = async (offset: number) =>
      bytes.set(await this.#read({ region: VFIO.configRegion, offset, sizeBytes: 4 }), offset);
    for (let at = 0; at < bytes.length; at += 4 * READS_AT_ONCE)
      await Promise.all(Array.from({ length: READS_AT_ONCE }, (_, i) => readDword(at + 4 * i)));
    return bytes;
  }

  async #read(access: RegionAccess): Promise<Uint8Array> {
    const { payload } = await this.#channel.ask('regionRead', encodeRead(access));
    return this.#checked(() => decodeRead(payload, access));
  }

  /** One message after the other: each brings as many as the server takes. */
  #setIrqs(action: number, index: number, events: readonly EventFd[]): void {
    const chunks = Math.ceil(events.length / this.#fdsMax);
    const last = this.#irqTurn;
    this.#irqTurn = this.#track(async () => {
      await last;
      for (let n = 0; n < Math.max(chunks, 1); n++) {
        const start = n * this.#fdsMax;
        const fds = events.slice(start, start + this.#fdsMax).map(({ fd }) => fd);
        if (fds.includes(-1)) return; // closed since
        const payload = encodeSetIrqs(action, index, start, fds.length);
        await this.#channel.ask('setIrqs', payload, { fds });
      }
    });
  }

  /** Whatever becomes of it, `settled` waits for it. */
  #track(work: () => Promise<void>): Promise<void> {
    const done = work()
      .catch((error: Error) => {
        if (error instanceof RefusedError) this.#options.onWarning(error.message);
      })
      .finally(() => this.#pending.delete(done));
    this.#pending.add(done);
    return done;
  }

  /** What a region is by now is looked at before each step: it may go while we wait. */
  async #follow(): Promise<void> {
    for (;;) {
      const wanted = this.#options.memory.regions();
      const stale = this.#mapped.find((one) => !wanted.some((other) => isSame(one, other)));
      const missing = wanted.find((one) => !this.#mapped.some((other) => isSame(one, other)));
      if (stale) {
        this.#mapped = this.#mapped.filter((one) => one !== stale);
        await this.#channel.ask('dmaUnmap', encodeDmaUnmap(stale));
      } else if (missing) {
        this.#mapped = [...this.#mapped, missing];
        await this.#channel.ask('dmaMap', encodeDmaMap(missing), { fds: [missing.fd] });
      } else return;
    }
  }

  /** What a decoder says; if it says no, the connection is over. */
  #checked<T>(decode: () => T): T {
    try {
      return decode();
    } catch (error) {
      this.#channel.fail(error as Error);
      throw error;
    }
  }
}

const isSame = (a: SharedRegion, b: SharedRegion): boolean =>
  a.gpa === b.gpa && a.sizeBytes === b.sizeBytes && a.fd === b.fd && a.fileOffset === b.fileOffset;
