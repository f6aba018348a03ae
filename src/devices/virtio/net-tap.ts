/**
 * The host's side of a network card: a tap that is there, one that is made, or files that the user
 * opened for us.
 */
import { closeSync, constants, openSync, readFileSync } from 'node:fs';
import { native } from '../../native.ts';
import type { Tap } from '../../native-net.ts';
import {
  adoptFailure,
  filesFailure,
  nameFailure,
  openFailure,
  settingFailure,
} from './net-tap-errors.ts';

/** What of a card's config is about its tap. */
export interface TapConfig {
  tap?: string;
  ip?: string;
  mask?: string;
  host_mac?: string;
  mtu?: number;
  num_queues: number;
  fds?: number[];
}

const TUN_DEVICE = '/dev/net/tun';

/** Of which the kernel makes `vmtap0`, or the next that is free. */
const NAME_PATTERN = 'vmtap%d';

/** IFNAMSIZ, less the zero byte at the end. */
const NAME_BYTES_MAX = 15;

/** What Linux takes as the name of an interface; one `%d` stands for a number. */
const NAME = /^(?!\.{1,2}$)[^/:%\s\0]*(%d[^/:%\s\0]*)?$/;

/** linux/capability.h. */
const CAP_NET_ADMIN = 12n;

/** The files of all cards that there are. */
const filesInUse = new Set<number>();

export class NetTap {
  /** One a queue pair. */
  readonly fds: readonly number[];
  readonly mac: string;
  /** It goes when it is closed. */
  readonly isMade: boolean;
  /** The kernel takes UDP frames to be cut. */
  readonly takesUso: boolean;
  #mtu: number;
  #isOpen = true;

  /**
   * Nothing is made or changed.
   * @throws VmmError what the constructor would, as far as it can be known.
   */
  static check(config: TapConfig, at: string): void {
    if (config.fds) checkFiles(config.fds, at);
    else checkOpen(config, at);
  }

  /**
   * @param at how the config calls the card, such as `net[0]`.
   * @throws VmmError 'conflict' if the tap is in use, else 'invalid-config'; nothing stays open.
   */
  constructor(config: TapConfig, at: string) {
    const tap = config.fds ? undefined : open(config, at);
    this.fds = tap?.fds ?? adopt(config.fds ?? [], at);
    for (const fd of this.fds) filesInUse.add(fd);
    this.isMade = tap?.made ?? false;
    try {
      if (tap) setUp(tap, config, at);
      const [first = -1] = this.fds;
      ({ mac: this.mac, mtu: this.#mtu } = native.taps.facts(first));
      this.takesUso = native.taps.probeUso(first);
      this.setPairs(1);
    } catch (cause) {
      this.#letGo();
      closeAll(this.fds);
      throw cause;
    }
  }

  /**
   * Of the interface, which its host may set at any time; as it was if it is gone. 0 if it never
   * was in our network namespace.
   */
  get mtu(): number {
    try {
      this.#mtu = native.taps.facts(this.fds[0] ?? -1).mtu || this.#mtu;
    } catch {
      // It is gone, which the data plane finds.
    }
    return this.#mtu;
  }

  /**
   * Has frames come to the first `count` files alone. The kernel says EINVAL of those that are so
   * already, as who had the files before us may have left them.
   * @throws SystemError
   */
  setPairs(count: number): void {
    if (this.fds.length === 1) return;
    for (const [pair, fd] of this.fds.entries()) {
      try {
        native.taps.setQueue(fd, pair < count);
      } catch (cause) {
        if ((cause as NodeJS.ErrnoException).code !== 'EINVAL') throw cause;
      }
    }
  }

  /** What the kernel may leave to the guest: TUN_F_… bits. @throws SystemError if it is gone. */
  setOffloads(offloads: number): void {
    native.taps.setOffloads(this.fds[0] ?? -1, offloads);
  }

  /** Idempotent. A tap that we made goes; files that the user opened get frames as before. */
  async close(): Promise<void> {
    if (!this.#isOpen) return;
    this.#isOpen = false;
    this.#letGo();
    await native.taps.close(this.fds);
  }

  #letGo(): void {
    try {
      this.setPairs(this.fds.length);
    } catch {
      // It is gone, or else whoever uses it next sees to that.
    }
    for (const fd of this.fds) filesInUse.delete(fd);
  }
}

function closeAll(fds: readonly number[]): void {
  for (const fd of fds) closeSync(fd);
}

const pairs = ({ num_queues }: TapConfig): number => num_queues / 2;

const named = ({ tap }: TapConfig, at: string): string =>
  tap ? `${at}.tap is ${tap}` : `${at} has no tap, so one is to be made`;

function checkName({ tap = '' }: TapConfig, at: string): void {
  if (Buffer.byteLength(tap) > NAME_BYTES_MAX)
    throw nameFailure(
      `Interface name too long (max length is ${NAME_BYTES_MAX}): ${tap}`,
      `${at}.tap is ${tap}: give a name of at most ${NAME_BYTES_MAX} bytes`,
    );
  if (!NAME.test(tap))
    throw nameFailure(
      'Invalid interface name',
      `${at}.tap is ${JSON.stringify(tap)}: give a name without spaces, slashes, colons and %`,
    );
}

function checkOpen(config: TapConfig, at: string): void {
  checkName(config, at);
  try {
    closeSync(openSync(TUN_DEVICE, constants.O_RDWR | constants.O_NONBLOCK));
    // A tap that is there may be its user's own.
    if (!config.tap && !hasCapability(CAP_NET_ADMIN))
      throw Object.assign(new Error('EPERM: Operation not permitted, tap'), {
        ...{ code: 'EPERM', errno: -1 },
      });
  } catch (cause) {
    throw openFailure(cause, named(config, at), pairs(config));
  }
}

function open(config: TapConfig, at: string): Tap {
  checkName(config, at);
  try {
    return native.taps.open({ name: config.tap || NAME_PATTERN, queuePairs: pairs(config) });
  } catch (cause) {
    throw openFailure(cause, named(config, at), pairs(config));
  }
}

function checkFiles(fds: readonly number[], at: string): void {
  const names = new Set(fds.map((fd) => ofFile(fd, at, () => native.taps.name(fd))));
  if (names.size > 1)
    throw filesFailure(
      `${at}.fds is ${fds.join()}, of ${[...names].join(' and ')}: give files of one tap`,
    );
  checkQueues(fds, at);
}

/** Of two descriptors of one open file, each pair would take frames that are the other's. */
function checkQueues(fds: readonly number[], at: string): void {
  const { taps } = native;
  for (const [i, fd] of fds.entries()) {
    const other = fds.slice(0, i).find((before) => taps.isOneFile(fd, before));
    if (other !== undefined)
      throw filesFailure(
        `${at}.fds is ${fds.join()}, of which ${other} and ${fd} are one file: open the tap with IFF_MULTI_QUEUE once for each pair`,
      );
    if ([...filesInUse].some((used) => taps.isOneFile(fd, used)))
      throw filesFailure(
        `${at}.fds names ${fd}, a file that another card uses: give each card files of its own`,
        'conflict',
      );
  }
}

/**
 * Duplicates, so that the next boot finds the user's own open. The interface itself may be in
 * another network namespace, and is left as it is.
 */
function adopt(fds: readonly number[], at: string): number[] {
  checkFiles(fds, at);
  const adopted: number[] = [];
  try {
    for (const fd of fds) adopted.push(ofFile(fd, at, () => native.taps.adopt(fd)));
    return adopted;
  } catch (cause) {
    closeAll(adopted);
    throw cause;
  }
}

function ofFile<T>(fd: number, at: string, act: () => T): T {
  try {
    return act();
  } catch (cause) {
    throw adoptFailure(cause, `${at}.fds names ${fd}`);
  }
}

/** An address is given to a tap that we made alone: whoever made another has seen to that. */
function setUp({ fds: [fd = -1], name, made }: Tap, config: TapConfig, at: string): void {
  const { taps } = native;
  const { ip, mask, host_mac, mtu } = config;
  const found = taps.facts(fd);
  const set = (field: string, act: () => void) => {
    try {
      act();
    } catch (cause) {
      throw settingFailure(cause, `${at}.${field}`, name);
    }
  };
  if (made && ip !== undefined && mask !== undefined)
    set(`ip is ${ip} and mask ${mask}`, () => taps.setAddress(name, ip, mask));
  if (host_mac !== undefined && host_mac !== found.mac)
    set(`host_mac is ${host_mac}`, () => taps.setMac(name, host_mac));
  if (mtu !== undefined && mtu !== found.mtu) set(`mtu is ${mtu}`, () => taps.setMtu(name, mtu));
  set(`tap is ${name}`, () => taps.up(name));
}

/** Whether we have a capability now. proc(5), CapEff. */
function hasCapability(bit: bigint): boolean {
  const status = readFileSync('/proc/self/status', 'latin1');
  const [, effective = '0'] = /^CapEff:\s*([0-9a-f]+)/m.exec(status) ?? [];
  return ((BigInt(`0x${effective}`) >> bit) & 1n) === 1n;
}
