/** What of the native core (native.ts) is about network cards and the taps that they are on. */
/** How a tap is opened or made. */
export interface TapOptions {
  /** Of an interface, or a pattern such as `vmtap%d` of which the kernel makes a name. */
  name: string;
  /** One file is opened for each. */
  queuePairs: number;
}

import type { RateLimiter } from './native-limits.ts';

export interface Tap {
  /** Of the interface. */
  name: string;
  /** One a queue pair, ours to close. They do not block, and each frame has 12 bytes in front. */
  fds: number[];
  /** It was not there before, and goes when the last of its files is closed. */
  made: boolean;
}

/** What the host says of an interface. */
export interface TapFacts {
  name: string;
  mtu: number;
  /** Such as 12:34:56:78:90:ab. */
  mac: string;
}

/** None but `close` waits; each throws a SystemError that names the call. */
export interface NativeTaps {
  /** Opens the interface, or makes it. */
  open(options: TapOptions): Tap;
  /**
   * Of the interface of a file that the user opened, which may be anything. EBADF, ENOTTY, or
   * EINVAL if it is a tap without headers in front of its frames (IFF_VNET_HDR).
   */
  name(fd: number): string;
  /** Whether two descriptors are duplicates. False where the kernel does not tell. */
  isOneFile(fd: number, other: number): boolean;
  /** Makes such a file one for us: a duplicate, ours to close. */
  adopt(fd: number): number;
  facts(fd: number): TapFacts;
  /** Whether the kernel takes UDP frames to be cut (USO), Linux 6.2. All offloads are off then. */
  probeUso(fd: number): boolean;
  setMac(name: string, mac: string): void;
  setMtu(name: string, mtu: number): void;
  /** IPv4, dotted. */
  setAddress(name: string, ip: string, mask: string): void;
  /** Has it carry frames. */
  up(name: string): void;
  /** What of a frame the kernel may leave to the guest to do: TUN_F_… bits, linux/if_tun.h. */
  setOffloads(fd: number, offloads: number): void;
  /** Has the kernel put frames into the file, or not; only of a tap with several. */
  setQueue(fd: number, on: boolean): void;
  /** Takes such files, and closes them off this thread: a tap that goes takes its time. */
  close(fds: readonly number[]): Promise<void>;
}

export interface NetEngineOptions {
  /** The thread of pair n is called `${id}_qp${n}`, of which the kernel shows 15 bytes. */
  id: string;
  /** One file a queue pair. Borrowed until `stop` has resolved. */
  taps: readonly number[];
  /** VIRTIO_NET_F_MRG_RXBUF was negotiated: a frame may lie in several chains. */
  mergeRxBuffers: boolean;
  /** The most bytes that the kernel may hand over as one frame, the 12 in front included. */
  frameBytesMax: number;
  /** Of what the guest receives, and of what it sends. */
  rxLimiter?: RateLimiter | undefined;
  txLimiter?: RateLimiter | undefined;
  /** A tap is gone, or does not work; once for each. The engine carries on without it. */
  onTapError(message: string): void;
}

/** What passed since `start`, as the guest sees it: `rx` is what it received. */
export type NetCounters = Record<'rx_bytes' | 'tx_bytes' | 'rx_frames' | 'tx_frames', number>;
