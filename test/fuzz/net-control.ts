/**
 * Fuzzes the control queue of a network card: a driver that takes any of its features, asks for
 * anything, mostly close to what can be asked for, resets, and is paused; on a tap that may fail.
 *
 * Whatever it does, each request is answered once and as a second reading of VIRTIO 1.2 §5.1.6.5
 * has it; Linux takes what is asked of the tap; the tap leaves to the guest no more than was
 * negotiated; frames come to the first pairs, of those that there are, and to one at least.
 */
import { Net } from '../../src/devices/virtio/net.ts';
import { NET } from '../../src/devices/virtio/net-features.ts';
import { Driver, NEEDS_RESET } from '../unit/support/driver.ts';
import { type FakeTaps, fakeNet, GONE, netConfig } from '../unit/support/fake-taps.ts';
import { random } from './random.ts';

type Below = (n: number) => number;

const PAIRS_MAX = 4;
const STEPS_MAX = 40;
const VERSION_1 = 1n << 32n;

/** What GUEST_OFFLOADS_SET may name, by its bits. */
const SWITCHES = [1n, 7n, 8n, 9n, 10n, 54n, 55n].reduce((sum, bit) => sum | (1n << bit), 0n);

/** TUN_F_… by bit, and the feature without which the guest does not take it. */
const TUN_NEEDS = [1n, 7n, 8n, 9n, 10n, 54n, 55n].map((bit) => 1n << bit);

function check(holds: boolean, message: string): asserts holds {
  if (!holds) throw new Error(message);
}

class Case {
  readonly outcomes = new Set<string>();
  readonly #below: Below;
  readonly #taps: FakeTaps;
  readonly #pairs: number;
  readonly #device: Net;
  readonly #driver: Driver;
  #features = 0n;

  constructor(taps: FakeTaps, below: Below) {
    this.#below = below;
    this.#taps = taps;
    this.#pairs = 1 + below(PAIRS_MAX);
    taps.uso = below(2) === 1;
    const config = netConfig({ num_queues: 2 * this.#pairs });
    this.#device = new Net(config, { id: '_net0', onWarning: () => {} });
    this.#driver = new Driver(this.#device);
    this.#start();
  }

  async step(): Promise<void> {
    const { pci } = this.#driver;
    const dice = this.#below(12);
    if (dice === 0) {
      await this.#driver.reset();
      this.#start();
    } else if (dice === 1) {
      await pci.pause();
      pci.resume();
    } else if (dice === 2) {
      for (const call of ['setQueue', 'setOffloads'])
        if (this.#below(2) === 0) this.#taps.failures.set(call, GONE);
        else this.#taps.failures.delete(call);
    } else await this.#ask();
    this.#checkTap();
    check((this.#driver.status & NEEDS_RESET) === 0, 'In need of a reset');
  }

  async end(): Promise<void> {
    this.#taps.failures.clear();
    await this.#driver.pci[Symbol.asyncDispose]();
    this.#taps.calls.length = 0;
  }

  #start(): void {
    const wild = BigInt(this.#below(2 ** 32)) | (BigInt(this.#below(2 ** 32)) << 32n);
    const offered = this.#device.features;
    this.#features = this.#below(2) === 0 ? offered : offered & wild;
    if (this.#below(4) > 0) this.#features |= NET.CTRL_VQ;
    this.#driver.start({ features: this.#features | VERSION_1 });
    this.#checkTap();
  }

  async #ask(): Promise<void> {
    const has = (feature: bigint) => (this.#features & feature) !== 0n;
    if (!has(NET.CTRL_VQ)) return;
    const queue = has(NET.MQ) ? 2 * this.#pairs : 2;
    const bytes = someRequest(this.#below, this.#pairs);
    const room = this.#below(8) === 0 ? this.#below(3) : 1;
    const chain = this.#driver.offer(queue, bytes, room);
    this.#driver.kick(queue);
    const answer = await chain.done;
    check(chain.completeCount === 1, 'Answered twice');
    check(answer.length === Math.min(room, 1), `Answered with ${answer.length} bytes`);
    if (room === 0) return;
    const expected = this.#isGood(bytes) ? 0 : 1;
    const hex = Buffer.from(bytes).toString('hex');
    check(answer[0] === expected, `${hex} with ${this.#features}: ${answer[0]}`);
    this.outcomes.add(`${hex.slice(0, 4)}: ${expected}`);
  }

  /** As the specification has it, and the tap lets it. */
  #isGood(bytes: Uint8Array): boolean {
    const hex = Buffer.from(bytes).toString('hex');
    if (/^000[0-5]..$|^020[01]....$/.test(hex)) return true;
    if (hex === '0300') return (this.#features & NET.GUEST_ANNOUNCE) !== 0n;
    const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
    if (/^0400....$/.test(hex)) {
      const count = view.getUint16(2, true);
      const isThere = count >= 1 && count <= this.#pairs && (this.#features & NET.MQ) !== 0n;
      return isThere && (this.#pairs === 1 || !this.#taps.failures.has('setQueue'));
    }
    if (!/^0500.{16}$/.test(hex)) return false;
    const isAllowed = (view.getBigUint64(2, true) & ~(this.#features & SWITCHES)) === 0n;
    const isHeard = (this.#features & NET.CTRL_GUEST_OFFLOADS) !== 0n;
    return isAllowed && isHeard && !this.#taps.failures.has('setOffloads');
  }

  /** Of all that it was asked since the step before. */
  #checkTap(): void {
    for (const [offloads] of this.#taps.callsOf('setOffloads') as [number][]) {
      check(linuxTakes(offloads), `Linux refuses offloads ${offloads}`);
      for (const [bit, feature] of TUN_NEEDS.entries())
        check(
          (offloads & (1 << bit)) === 0 || (this.#features & feature) !== 0n,
          'Too much is left',
        );
    }
    const states = this.#taps.callsOf('setQueue').map(([, on]) => on);
    if (!this.#taps.failures.has('setQueue'))
      for (let i = 0; i < states.length; i += this.#pairs) {
        const state = states.slice(i, i + this.#pairs);
        const count = state.filter(Boolean).length;
        check(count >= 1 && state.lastIndexOf(true) === count - 1, `Frames come to ${state}`);
      }
    this.#taps.calls.length = 0;
  }
}

/** TUNSETOFFLOAD of Linux 6, as far as it says EINVAL. */
export function linuxTakes(offloads: number): boolean {
  const [CSUM, TSO, ECN, USO] = [1, 6, 8, 0x60];
  if ((offloads & CSUM) === 0) return offloads === 0;
  if ((offloads & ECN) !== 0 && (offloads & TSO) === 0) return false;
  return offloads < 0x80 && ((offloads & USO) === 0 || (offloads & USO) === USO);
}

/** A good request, or one that differs from it in a byte or in length, or anything. */
function someRequest(below: Below, pairs: number): Uint8Array {
  const offloads = Array.from({ length: 8 }, (_, i) => [0x82, 7, 0, 0, 0, 0, 0xc0, 0][i] ?? 0);
  const good = [
    [0, below(6), below(2)],
    [2, below(2), below(256), below(16)],
    [3, 0],
    [4, 0, 1 + below(pairs), 0],
    [5, 0, ...offloads.map((byte) => byte & below(256))],
  ];
  const bytes = good[below(good.length)] ?? [];
  const mutations = [
    () => bytes,
    () => bytes,
    () => bytes.with(below(bytes.length), below(256)),
    () => bytes.slice(0, below(bytes.length)),
    () => [...bytes, below(256)],
    () => Array.from({ length: below(300) }, () => below(256)),
  ];
  return Uint8Array.from(mutations[below(mutations.length)]?.() ?? []);
}

/** Runs cases for `seconds`. Returns what was answered to which command, `0400: 0` and the like. */
export async function explore(seconds: number, seed: number): Promise<Set<string>> {
  const { taps } = fakeNet();
  const outcomes = new Set<string>();
  const end = performance.now() + 1000 * seconds;
  for (let runs = 0; performance.now() < end; runs++) {
    const one = new Case(taps, random(seed + runs));
    try {
      for (let i = 0; i < STEPS_MAX; i++) await one.step();
    } catch (cause) {
      throw new Error(`Case ${seed + runs}`, { cause });
    } finally {
      await one.end();
    }
    for (const outcome of one.outcomes) outcomes.add(outcome);
  }
  return outcomes;
}
