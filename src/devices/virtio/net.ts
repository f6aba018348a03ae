/**
 * virtio-net: a network card for the guest, on a tap of the host. VIRTIO 1.2 §5.1.
 *
 * Data plane: a native engine, one thread a queue pair; it decides nothing.
 */
import type { Static } from '@sinclair/typebox';
import { Writer } from '../../bytes.ts';
import { type NetEngine, native } from '../../native.ts';
import type { NetCounters, NetEngineOptions } from '../../native-net.ts';
import { makeRateLimiter } from '../../rate-limiter.ts';
import {
  bool,
  choice,
  iommuFields,
  ipv4,
  list,
  MTU_MIN,
  mac,
  object,
  option,
  RateLimiterConfig,
  text,
  uint,
} from '../../schema.ts';
import type { DeviceContext } from '../device.ts';
import { type Activation, F_EVENT_IDX, F_INDIRECT_DESC, type VirtioDevice } from './device.ts';
import { NetControl } from './net-control.ts';
import {
  areNegotiated,
  NET,
  offeredFeatures,
  takesLargeFrames,
  tapOffloads,
} from './net-features.ts';
import { NetTap } from './net-tap.ts';

export const NetConfig = object({
  ...iommuFields,
  tap: option(text()),
  ip: option(ipv4({ wire: { seedDefault: '192.168.249.1' } })),
  mask: option(ipv4({ wire: { seedDefault: '255.255.255.0' } })),
  /** Drawn when the config is read, so that it outlives reboots. */
  mac: mac({ drawn: true }),
  host_mac: option(mac()),
  mtu: option(uint(16)),
  num_queues: uint(53, { default: 2 }),
  queue_size: uint(16, { default: 256 }),
  vhost_user: bool(false),
  vhost_socket: option(text({ cli: { key: 'socket' } })),
  vhost_mode: choice(['Client', 'Server'], { default: 'Client' }),
  fds: option(list(uint(32), { cli: { key: 'fd' }, wire: { fd: true } })),
  rate_limiter_config: option(RateLimiterConfig),
  offload_tso: bool(true),
  offload_ufo: bool(true),
  offload_csum: bool(true),
});
export type NetConfig = Static<typeof NetConfig>;

// Config space, §5.1.4. Offsets in bytes.
const MAC = 0;
const STATUS = 6;
const MAX_VIRTQUEUE_PAIRS = 8;
const MTU = 10;
const CONFIG_BYTES = 12;

// Of the status.
const LINK_UP = 1;
const ANNOUNCE = 2;

/** In front of each frame, §5.1.6. */
const HEADER_BYTES = 12;

/** An Ethernet header, and two VLAN tags. */
const ETHERNET_BYTES = 14 + 2 * 4;

/** Of an IP packet. */
const PACKET_BYTES_MAX = 0xffff;

type NetContext = Pick<DeviceContext, 'id' | 'onWarning'>;

export class Net implements VirtioDevice {
  readonly virtioId = 1;
  readonly features: bigint;
  readonly queueSizes: readonly number[];
  readonly config: Uint8Array;
  readonly #context: NetContext;
  readonly #tap: NetTap;
  /** What the config says; else it is that of the tap. */
  readonly #mtu: number | undefined;
  /** Each direction has the whole of the limit. They outlive the engines, as the counts do. */
  readonly #limiters: Pick<NetEngineOptions, 'rxLimiter' | 'txLimiter'>;
  #counted: NetCounters = { rx_bytes: 0, tx_bytes: 0, rx_frames: 0, tx_frames: 0 };
  #active: Activation | undefined;
  #engine: NetEngine | undefined;

  /** Whether its tap can be had; another may take it before the boot. @throws VmmError */
  static check(config: NetConfig, at: string): void {
    NetTap.check(config, at);
  }

  /** @throws VmmError 'invalid-config' or 'conflict' if the tap cannot be had. */
  constructor(config: NetConfig, context: NetContext) {
    this.#context = context;
    this.#tap = new NetTap(config, context.id);
    const { takesUso, fds } = this.#tap;
    this.#limiters = {
      rxLimiter: makeRateLimiter(config.rate_limiter_config),
      txLimiter: makeRateLimiter(config.rate_limiter_config),
    };
    this.#mtu = config.mtu;
    const mtu = config.mtu ?? this.#tap.mtu;
    // The driver is told all the same: what it sent in larger frames would get lost on the way.
    if (mtu !== 0 && mtu < MTU_MIN)
      this.#warn(`The MTU of its tap is ${mtu}: set it to at least ${MTU_MIN}, as guests expect`);
    this.features =
      offeredFeatures(config, takesUso) |
      (mtu === 0 ? 0n : NET.MTU) | // of a tap in another network namespace it is not known
      (F_INDIRECT_DESC | F_EVENT_IDX);
    this.queueSizes = Array<number>(2 * fds.length + 1).fill(config.queue_size);
    this.config = configSpace(config.mac, mtu, fds.length);
  }

  /** Of the tap. */
  get hostMac(): string {
    return this.#tap.mac;
  }

  /** What a card in its place is to be given, for what is made with it goes with it. */
  get kept(): { host_mac?: string } {
    return this.#tap.isMade ? { host_mac: this.#tap.mac } : {};
  }

  counters(): NetCounters {
    return this.#engine ? sum(this.#counted, this.#engine.counters()) : this.#counted;
  }

  activate(activation: Activation): void {
    const { features, queues, needsReset } = activation;
    this.#active = activation;
    // §5.1.2: without MQ there is one pair, and the control queue follows it.
    const pairs = (features & NET.MQ) !== 0n ? this.#tap.fds.length : 1;
    this.#setOffloads(features);
    try {
      this.#startEngine(pairs, activation);
    } catch (error) {
      needsReset(`The data plane does not start: ${(error as Error).message}`);
      return;
    }
    const control = queues[2 * pairs];
    if (!control || (features & NET.CTRL_VQ) === 0n) return;
    new NetControl(control, features, {
      setPairs: (count) => count >= 1 && count <= pairs && this.#setPairs(count),
      setGuestOffloads: (offloads) =>
        areNegotiated(offloads, features) && this.#setOffloads(offloads),
      acknowledgeAnnouncement: () => this.#setStatus(ANNOUNCE, false),
    });
  }

  async pause(): Promise<void> {
    await this.#engine?.pause();
  }

  /** Switches may have forgotten the guest meanwhile, so it says where it is. §5.1.6.5.4. */
  resume(): void {
    this.#engine?.resume();
    const { features = 0n } = this.#active ?? {};
    if ((features & NET.GUEST_ANNOUNCE) === 0n) return;
    this.#setStatus(ANNOUNCE, true);
    this.#tellDriver();
  }

  async reset(): Promise<void> {
    this.#active = undefined;
    await this.#engine?.stop();
    this.#counted = this.counters();
    this.#engine = undefined;
    this.config[STATUS] = LINK_UP;
    new DataView(this.config.buffer).setUint16(MTU, this.#mtu ?? this.#tap.mtu, true);
    this.#setOffloads(0n);
    this.#onTap(() => this.#tap.setPairs(1));
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.reset();
    await this.#tap.close();
  }

  /** Only the first pair is used until the driver asks for more, §5.1.6.5.5. */
  #startEngine(pairs: number, { features, queues }: Activation): void {
    // Larger ones the tap cuts, unless the driver takes them.
    const ofTap = this.#tap.mtu || PACKET_BYTES_MAX;
    const packetBytes = takesLargeFrames(features) ? PACKET_BYTES_MAX : ofTap;
    const engine = new native.NetEngine({
      id: this.#context.id,
      taps: this.#tap.fds.slice(0, pairs),
      mergeRxBuffers: (features & NET.MRG_RXBUF) !== 0n,
      ...this.#limiters,
      frameBytesMax: HEADER_BYTES + ETHERNET_BYTES + packetBytes,
      onTapError: (message) => {
        if (this.#engine === engine) this.#lose(message);
      },
    });
    this.#engine = engine;
    engine.setPairs(1);
    engine.start(queues.slice(0, 2 * pairs));
  }

  /** Who takes frames is there before they come, and until they do no more. */
  #setPairs(count: number): boolean {
    this.#engine?.setPairs(this.#tap.fds.length);
    const isSet = this.#onTap(() => this.#tap.setPairs(count));
    this.#engine?.setPairs(count);
    return isSet;
  }

  #setOffloads(features: bigint): boolean {
    return this.#onTap(() => this.#tap.setOffloads(tapOffloads(features)));
  }

  /** Whether the kernel did it. If the tap is gone, the data plane finds that too. */
  #onTap(act: () => void): boolean {
    try {
      act();
      return true;
    } catch (error) {
      this.#warn((error as Error).message);
      return false;
    }
  }

  #lose(message: string): void {
    this.#warn(`Its link is down: ${message}`);
    this.#setStatus(LINK_UP, false);
    this.#tellDriver();
  }

  #setStatus(bit: number, on: boolean): void {
    const others = (this.config[STATUS] ?? 0) & ~bit;
    this.config[STATUS] = others | (on ? bit : 0);
  }

  #tellDriver(): void {
    if (this.#active && (this.#active.features & NET.STATUS) !== 0n) this.#active.configChanged();
  }

  #warn(message: string): void {
    this.#context.onWarning(`Network card ${this.#context.id}: ${message}`);
  }
}

const sum = (a: NetCounters, b: NetCounters): NetCounters => ({
  rx_bytes: a.rx_bytes + b.rx_bytes,
  tx_bytes: a.tx_bytes + b.tx_bytes,
  rx_frames: a.rx_frames + b.rx_frames,
  tx_frames: a.tx_frames + b.tx_frames,
});

function configSpace(mac: string, mtu: number, pairs: number): Uint8Array {
  const writer = new Writer(CONFIG_BYTES)
    .u16(STATUS, LINK_UP)
    .u16(MAX_VIRTQUEUE_PAIRS, pairs)
    .u16(MTU, mtu);
  writer.bytes.set(Buffer.from(mac.replaceAll(':', ''), 'hex'), MAC);
  return writer.bytes;
}
