/**
 * The native core as TypeScript sees it, and the one place that loads it.
 *
 * Addresses and sizes are numbers, exact to 2^53 (an x86 physical address has at most 52 bits).
 * Operating errors are thrown, or reject, in the shape of Node's own SystemError:
 * `EINVAL: Invalid argument, ioctl(KVM_RUN) vcpu=0` with `code`, `errno` and `syscall`.
 * No call waits for a vCPU or an engine: what must wait for one returns a Promise.
 */
import { createRequire } from 'node:module';
import type { BootPlan, CpuidEntry } from './native-boot.ts';
import type {
  BlockCounters,
  BlockEngineOptions,
  DiskImage,
  DiskImageOptions,
  NativeDisks,
} from './native-disks.ts';
import type { EventFd } from './native-events.ts';
import type { DmaSpace, IoDomain, IoDomains, IoLimits } from './native-iommu.ts';
import type { RateLimiter, RateLimiterOptions } from './native-limits.ts';
import type { GuestMemory } from './native-memory.ts';
import type { NativeTaps, NetCounters, NetEngineOptions } from './native-net.ts';
import type {
  BytePort,
  BytePortOptions,
  SerialLine,
  Uart16550,
  UartOptions,
} from './native-serial.ts';
import type { FdListener, FdListenerOptions, FdSocket, FdSocketOptions } from './native-sockets.ts';
import type { Passthrough, VfioContainer, VfioDevice } from './native-vfio.ts';
import type { FileWindow, NativeUnixStreams, SharedQueue } from './native-vhost.ts';
import type { VsockEngineOptions } from './native-vsock.ts';

export type { EventFd, GuestMemory };

/** Answers one access of 1, 2 or 4 bytes; wider ones arrive split, low half first. */
export interface AccessHandler {
  read(offset: number, sizeBytes: number): number;
  write(offset: number, sizeBytes: number, value: number): void;
}

/** What may be there at once, and may come later. */
export type Later<T> = T | Promise<T>;

/**
 * The same where another process has the answer: its vCPU waits for what comes later, and nobody
 * else does. Rejections count as a handler that threw.
 */
export interface LateHandler {
  read(offset: number, sizeBytes: number): Later<number>;
  write(offset: number, sizeBytes: number, value: number): Later<void>;
}

/** The same for writes alone. */
export interface LateWriteHandler extends LateHandler {
  read(offset: number, sizeBytes: number): number;
}

/** A range of ports or of guest physical addresses. */
export interface Claim {
  readonly space: 'port' | 'mmio';
  readonly base: number;
  readonly sizeBytes: number;
}

/** An interrupt line of level, which stays as it is set: who has it masked finds it later. */
export interface IrqLine {
  set(isHigh: boolean): void;
}

/**
 * A message-signalled interrupt: what signals its EventFd makes KVM send the message. It is masked
 * at first; while it is, signals wait in the EventFd.
 */
export interface Msi {
  /**
   * Where and what an MSI-X table entry says is written, from the next `mask(false)` on, whether it
   * is masked now or not. Bits of 32.
   */
  route(address: { low: number; high: number }, data: number): void;
  /**
   * Done later where KVM has to be asked, for which the JS thread does not wait; nothing else may
   * be asked of this Msi before. @throws SystemError of KVM_IRQFD or KVM_SET_GSI_ROUTING.
   */
  mask(masked: boolean): Later<void>;
  /** Resolves when no signal reaches the guest any more, and its GSI is free. Idempotent. */
  close(): Promise<void>;
}

/** A split virtqueue as the driver set it up, VIRTIO 1.2 §2.7. Addresses are its three parts'. */
export interface VirtqueueOptions {
  memory: GuestMemory;
  /** Of a device behind an IOMMU: addresses are I/O virtual ones, with up to 64 bits. */
  dma?: DmaSpace | undefined;
  /** A power of two up to 32768. */
  size: number;
  descGpa: number | bigint;
  availGpa: number | bigint;
  usedGpa: number | bigint;
  /** What was negotiated. */
  indirect: boolean;
  eventIdx: boolean;
  kick: EventFd;
  irq: EventFd;
  /** The driver broke a rule of the queue, which is dead from now on. Called once, by the loop. */
  onBroken(reason: string): void;
}

/**
 * The device's side of a virtqueue: either served here, by `onKick` and `take`, or handed to an
 * engine's `start`, which has it from then on.
 */
export interface Virtqueue {
  /** `handler` runs when chains may have come, and calls `take` until there is none, or later. */
  onKick(handler: () => void): void;
  /**
   * The next chain. Undefined if there is none, while paused, or if this turn of the event loop has
   * had its share: then the handler runs again in the next.
   */
  take(): Chain | undefined;
  /** Resolves when no chain is out. No more are handed out until `resume`. */
  pause(): Promise<void>;
  resume(): void;
  /** Gives it away to another process. Instead of `onKick`. @throws Error if it is broken. */
  share(): SharedQueue;
  /**
   * After `onKick`: what requests of the queue `domains` can carry out is done by the vCPU's thread
   * that kicks, see `Vm.claimKick`, and the handler gets the others. Order is kept.
   */
  shareKicks(domains: IoDomains): void;
  /** At a reset: chains still out do nothing from now on. Idempotent. */
  close(): void;
}

/** One request: bytes that the device may read, and room for bytes that it may write. */
export interface Chain {
  readonly readableBytes: number;
  readonly writableBytes: number;
  /** Copies what the driver gave, from `offset` on. Returns how many bytes there were. */
  read(into: Uint8Array, offset?: number): number;
  /** Copies into the driver's room, from `offset` on. Returns how many bytes fitted. */
  write(from: Uint8Array, offset?: number): number;
  /** Where the room is in guest RAM, in pairs of address and length; 1024 at most. */
  writableRanges(): Float64Array;
  /** Gives it back with its first `writtenBytes` filled. A second time, or too late: nothing. */
  complete(writtenBytes: number): void;
}

/** The data plane of a disk, VIRTIO 1.2 §5.2.6: a thread a queue, and no decisions. */
export interface BlockEngine {
  /** Takes the queues over for good; queue n is `queues[n]`. Once. */
  start(queues: readonly (Virtqueue | undefined)[]): void;
  /** Off: each write that comes after this is on stable storage before it is completed. */
  setWriteback(on: boolean): void;
  /** Resolves when nothing is in flight. No requests are taken until `resume`. */
  pause(): Promise<void>;
  resume(): void;
  /** Resolves when nothing is in flight and every thread has ended. Idempotent. */
  stop(): Promise<void>;
}

/** The data plane of a network card, VIRTIO 1.2 §5.1.6: a thread a queue pair, and no decisions. */
export interface NetEngine {
  /** Takes the queues over for good: 2n receives and 2n + 1 transmits for pair n. Once. */
  start(queues: readonly (Virtqueue | undefined)[]): void;
  /** Pairs from `count` on take nothing from their tap. */
  setPairs(count: number): void;
  /** Resolves when nothing is in flight. No frames are moved until `resume`. */
  pause(): Promise<void>;
  resume(): void;
  /** Resolves when nothing is in flight and every thread has ended. Idempotent. */
  stop(): Promise<void>;
  counters(): NetCounters;
}

/** The data plane of virtio-vsock, VIRTIO 1.2 §5.10.6: one thread, and no decisions. */
export interface VsockEngine {
  /** Takes both queues over for good. Once. @throws SystemError if the host has no more to give. */
  start(rx: Virtqueue, tx: Virtqueue): void;
  /** Resolves when nothing moves any more. Connections stay, and clients wait, until `resume`. */
  pause(): Promise<void>;
  resume(): void;
  /** Resolves when every connection is closed and the thread has ended. Idempotent. */
  stop(): Promise<void>;
}

export type VmEvent =
  /** Triple fault: the guest asks to be reset, if without knowing. */
  | { type: 'triple-fault'; vcpu: number }
  /** The vCPU cannot go on; `message` says why. The others run on until the VM is stopped. */
  | { type: 'vcpu-error'; vcpu: number; message: string }
  /** An AccessHandler threw: the guest was answered all ones. */
  | { type: 'handler-error'; message: string };

export interface VcpuOptions {
  apicId: number;
  /** Where its thread may run; anywhere if empty. */
  hostCpus: readonly number[];
}

/** One that may be plugged. */
export interface NewVcpu extends VcpuOptions {
  cpuid: CpuidEntry[];
}

interface VmOptions {
  /** Those there at the boot, at least 1. */
  vcpus: VcpuOptions[];
  /** How many there can be, at most 254. */
  vcpusMax: number;
  /** Where KVM may put four pages of its own, outside RAM. */
  tssGpa: number;
  onEvent: (event: VmEvent) => void;
}

/** One KVM VM with its vCPU threads, from construction (nothing runs) to `stop`. */
export interface Vm {
  /**
   * Makes `handler` answer a range; unclaimed addresses read all ones. Claims may come and go while
   * vCPUs run. @throws SystemError EEXIST on overlap, EINVAL if empty.
   */
  claim(claim: Claim, handler: LateHandler): void;
  /**
   * Takes from the guest the regions that its memory has lost, and gives it those that it has
   * gained. @throws SystemError
   */
  mapMemory(): void;
  /** Accesses that come after this read all ones. Nothing happens if nobody claimed it. */
  release(claim: Claim): void;
  /** Frequency of the guest's TSC, undefined if KVM does not tell it of a VM, as before Linux 5.19. */
  tscKhz(): number | undefined;
  /** @throws SystemError EINVAL if the GSI is no pin of the IOAPIC, 0 to 23. */
  irq(gsi: number): IrqLine;
  /** From now on a write to `gpa`, of any width, signals `kick` within KVM. */
  attachKick(gpa: number, kick: EventFd): void;
  detachKick(gpa: number, kick: EventFd): void;
  /**
   * The same, but first the vCPU serves the queue that shares its kicks with `domains`, and signals
   * only if that leaves anything. @throws SystemError EEXIST if somebody answers there
   */
  claimKick(gpa: number, kick: EventFd, domains: IoDomains): void;
  releaseKick(gpa: number): void;
  /** The guest finds the window at `gpa` from now on, and nowhere else. @throws SystemError */
  attachWindow(gpa: number, window: FileWindow): void;
  detachWindow(window: FileWindow): void;
  /** @throws SystemError ENOSPC if no GSI is left. */
  msi(irq: EventFd): Msi;
  uart(options: UartOptions): Uart16550;
  /** The ACPI PM timer at a port, 3.579545 MHz, answered on vCPU threads. ACPI 6.5 §4.8.2.1. */
  pmTimer(port: number): void;
  /**
   * The address register of PCI's configuration mechanism, four ports, answered on vCPU threads. PCI
   * Local Bus 3.0 §3.2.2.3.2. Returned is what tells of it: with what is no address of PCI's as 0.
   */
  pciAddress(port: number): () => number;
  /** Ports that swallow writes and read all ones on vCPU threads: 0x80 and the like. */
  sink(port: number, count: number): void;
  /** A port that prints to `output`, which is to be open until the Vm has stopped. */
  debugPort(port: number, output: BytePort): void;
  /** Carries the plan out; vCPUs exist afterwards, and have not run. Once in the life of a Vm. */
  boot(plan: BootPlan): Promise<void>;
  run(): void;
  /** Resolves when every vCPU has finished its exit and is parked. */
  pause(): Promise<void>;
  resume(): void;
  /** An NMI to every vCPU; one that is paused gets it when it runs again. */
  nmi(): void;
  /**
   * Makes vCPUs `first`, `first` + 1 and so on, without which they cannot be plugged; one that is
   * made already stays as it is. After boot. @throws SystemError EINVAL beyond `vcpusMax`
   */
  makeVcpus(first: number, vcpus: NewVcpu[]): Promise<void>;
  /** Resolves when those from `first` to before `end` that were unplugged can be plugged again. */
  whenReset(first: number, end: number): Promise<void>;
  /**
   * Has the guest have a vCPU that was made: it waits for INIT and SIPI, as after a reset. Its
   * thread is made at the first time.
   * @throws SystemError EINVAL if it is plugged, EAGAIN without a thread, EBUSY before `whenReset`
   */
  plug(vcpu: number): void;
  /**
   * Takes it from the guest, also while it waits for the answer to an access. Its thread sleeps
   * until it is plugged again. Nothing happens if it was not plugged.
   */
  unplug(vcpu: number): void;
  /** Resolves when every thread has ended; waiting exits get all ones. Idempotent. */
  stop(): Promise<void>;
}

export interface Native {
  GuestMemory: new () => GuestMemory;
  /** @throws SystemError of open(/dev/kvm) or of the ioctl that failed. */
  Vm: new (
    memory: GuestMemory,
    options: VmOptions,
  ) => Vm;
  /** A multiple of 4 KiB, which costs no memory. @throws SystemError */
  FileWindow: new (
    sizeBytes: number,
  ) => FileWindow;
  EventFd: new () => EventFd;
  IoDomains: new (limits: IoLimits) => IoDomains;
  /** @param domains those of its IOMMU; it is not among them yet. */
  IoDomain: new (
    domains: IoDomains,
  ) => IoDomain;
  DmaSpace: new () => DmaSpace;
  Passthrough: new (vm: Vm) => Passthrough;
  /** @throws SystemError of open(/dev/vfio/vfio), ENOTSUP if the host has no IOMMU that serves. */
  VfioContainer: new () => VfioContainer;
  VfioDevice: new () => VfioDevice;
  Virtqueue: new (options: VirtqueueOptions) => Virtqueue;
  BlockCounters: new () => BlockCounters;
  BlockEngine: new (options: BlockEngineOptions) => BlockEngine;
  /** @throws Error, saying why it cannot be used and what to do about it. */
  DiskImage: new (
    options: DiskImageOptions,
  ) => DiskImage;
  RateLimiter: new (options: RateLimiterOptions) => RateLimiter;
  /**
   * Has a thread make what the next `new Vm` needs of KVM, which takes milliseconds. Idempotent.
   */
  prepareVm: () => void;
  BytePort: new (options: BytePortOptions) => BytePort;
  /**
   * Listens at the path of a socket, or makes a pty; `name` is that of its thread.
   * @throws SystemError EADDRINUSE if anything lies at the path.
   */
  SerialLine: new (
    name: string,
    socketPath?: string,
  ) => SerialLine;
  /** @throws SystemError EINVAL if `fd` does not listen, EADDRINUSE if anything lies at `path`. */
  FdListener: new (
    options: FdListenerOptions,
  ) => FdListener;
  /** Owns `fd`, which is closed on exec. */
  FdSocket: new (
    fd: number,
    options: FdSocketOptions,
  ) => FdSocket;
  disks: NativeDisks;
  taps: NativeTaps;
  unixStreams: NativeUnixStreams;
  VsockEngine: new (options: VsockEngineOptions) => VsockEngine;
  NetEngine: new (options: NetEngineOptions) => NetEngine;
  /** Gives back heap that is free and pages of files that can be read again, on a worker. */
  trimMemory: () => Promise<void>;
  /** Ends the process at once; process.exit waits until our threads are out of system calls. */
  exitNow: (code: number) => never;
  /** The host's clock, CLOCK_REALTIME: nanoseconds since 1970, UTC. */
  wallClockNs: () => bigint;
  /** What KVM can show a guest of this host's CPUID. */
  supportedCpuid: () => CpuidEntry[];
}
/** The loader's, in the product. */
declare const __addon: (() => Native) | undefined;

let loaded: Native | undefined;

/** A checkout has it where node-gyp puts it. */
function addon(): Native {
  loaded ??=
    typeof __addon === 'function'
      ? __addon()
      : (createRequire(import.meta.url)('../build/Release/cloud_hypervisor.node') as Native);
  return loaded;
}

/** Loaded with its first use: an API that has no VM yet answers a millisecond sooner. */
export const native: Native = {
  get GuestMemory() {
    return addon().GuestMemory;
  },
  get Vm() {
    return addon().Vm;
  },
  get FileWindow() {
    return addon().FileWindow;
  },
  get EventFd() {
    return addon().EventFd;
  },
  get IoDomain() {
    return addon().IoDomain;
  },
  get IoDomains() {
    return addon().IoDomains;
  },
  get DmaSpace() {
    return addon().DmaSpace;
  },
  get Passthrough() {
    return addon().Passthrough;
  },
  get VfioContainer() {
    return addon().VfioContainer;
  },
  get VfioDevice() {
    return addon().VfioDevice;
  },
  get Virtqueue() {
    return addon().Virtqueue;
  },
  get BlockCounters() {
    return addon().BlockCounters;
  },
  get RateLimiter() {
    return addon().RateLimiter;
  },
  get BlockEngine() {
    return addon().BlockEngine;
  },
  get DiskImage() {
    return addon().DiskImage;
  },
  get disks() {
    return addon().disks;
  },
  get taps() {
    return addon().taps;
  },
  get unixStreams() {
    return addon().unixStreams;
  },
  get VsockEngine() {
    return addon().VsockEngine;
  },
  get NetEngine() {
    return addon().NetEngine;
  },
  get trimMemory() {
    return addon().trimMemory;
  },
  get prepareVm() {
    return addon().prepareVm;
  },
  get BytePort() {
    return addon().BytePort;
  },
  get SerialLine() {
    return addon().SerialLine;
  },
  get FdListener() {
    return addon().FdListener;
  },
  get FdSocket() {
    return addon().FdSocket;
  },
  get exitNow() {
    return addon().exitNow;
  },
  get wallClockNs() {
    return addon().wallClockNs;
  },
  get supportedCpuid() {
    return addon().supportedCpuid;
  },
};
