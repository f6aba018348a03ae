/** Taps and the data plane of network cards without a kernel: they note what they are told. */
import { closeSync, mkdtempSync, openSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { onTestFinished, vi } from 'vitest';
import { normaliseCli } from '../../../src/api/dialects.ts';
import type { NetConfig } from '../../../src/devices/virtio/net.ts';
import { native } from '../../../src/native.ts';
import type { NativeTaps, NetEngineOptions } from '../../../src/native-net.ts';

/** As the addon throws it. */
export const systemError = (code: string, errno: number, text: string): Error =>
  Object.assign(new Error(`${code}: ${text}, ioctl(TUN)`), { code, errno: -errno });

export const EINVAL = systemError('EINVAL', 22, 'Invalid argument');
export const GONE = systemError('EBADFD', 77, 'File descriptor in bad state');

export class FakeTaps implements NativeTaps {
  /** What was asked for, in order, without questions. */
  readonly calls: unknown[][] = [];
  /** As a `Tap` and its `TapFacts` say it. */
  ofInterface = 'vmtap0';
  made = true;
  mtu = 1500;
  mac = '02:00:00:00:00:77';
  uso = false;
  /** Thrown by the method of that name. */
  readonly failures = new Map<string, Error>();
  /** Where its files are. */
  readonly folder = mkdtempSync(join(tmpdir(), 'taps-'));
  readonly #names = new Map<number, string>();

  open: NativeTaps['open'] = ({ name, queuePairs }) => {
    this.#note('open', name, queuePairs);
    const { made } = this;
    return {
      name: this.ofInterface,
      fds: Array.from({ length: queuePairs }, () => this.#file()),
      made,
    };
  };

  name: NativeTaps['name'] = (fd) => {
    this.#fail('name');
    return fd < 100 ? this.ofInterface : `tap${fd}`;
  };

  /** `duplicates` by their number; what is adopted is a duplicate of what it was adopted from. */
  duplicates: readonly number[] = [];
  readonly #originals = new Map<number, number>();

  isOneFile: NativeTaps['isOneFile'] = (...fds) => {
    const [one, other] = fds.map((fd) => this.#originals.get(fd) ?? fd);
    return one === other || fds.every((fd) => this.duplicates.includes(fd));
  };

  adopt: NativeTaps['adopt'] = (fd) => {
    this.#note('adopt', fd);
    const file = this.#file(this.name(fd));
    this.#originals.set(file, fd);
    return file;
  };

  facts: NativeTaps['facts'] = (fd) => {
    this.#fail('facts');
    return { name: this.#names.get(fd) ?? '', mtu: this.mtu, mac: this.mac };
  };

  probeUso: NativeTaps['probeUso'] = () => {
    this.#note('probeUso');
    return this.uso;
  };

  setMac: NativeTaps['setMac'] = (name, mac) => {
    this.#note('setMac', name, mac);
    this.mac = mac;
  };

  setMtu: NativeTaps['setMtu'] = (name, mtu) => {
    this.#note('setMtu', name, mtu);
    this.mtu = mtu;
  };

  setAddress: NativeTaps['setAddress'] = (...args) => this.#note('setAddress', ...args);
  up: NativeTaps['up'] = (name) => this.#note('up', name);
  setOffloads: NativeTaps['setOffloads'] = (_, offloads) => this.#note('setOffloads', offloads);

  /** Noted by pair. */
  setQueue: NativeTaps['setQueue'] = (fd, on) =>
    this.#note('setQueue', [...this.#names.keys()].indexOf(fd), on);

  close: NativeTaps['close'] = async (fds) => {
    for (const fd of fds) closeSync(fd);
  };

  /** The calls of that name, without it. */
  callsOf = (name: string): unknown[][] =>
    this.calls.filter(([called]) => called === name).map(([, ...rest]) => rest);

  #note(...call: [string, ...unknown[]]): void {
    this.calls.push(call);
    this.#fail(call[0]);
  }

  #fail(name: string): void {
    const failure = this.failures.get(name);
    if (failure) throw failure;
  }

  /** Open, so that a test sees whether it is closed. */
  #file(name = this.ofInterface): number {
    const fd = openSync(join(this.folder, name), 'w');
    this.#names.set(fd, name);
    return fd;
  }
}

export class FakeNetEngine {
  readonly options: NetEngineOptions;
  readonly calls: unknown[][] = [];
  started: readonly unknown[] | undefined;
  pause = vi.fn(async () => {});
  resume = vi.fn();
  stop = vi.fn(async () => {});
  counters = () => ({ rx_bytes: 1000, tx_bytes: 200, rx_frames: 30, tx_frames: 4 });

  constructor(options: NetEngineOptions) {
    this.options = options;
  }

  setPairs(count: number): void {
    this.calls.push(['setPairs', count]);
  }

  start(queues: readonly unknown[]): void {
    this.calls.push(['start']);
    this.started = queues;
  }
}

/** Puts fakes in place of the native parts until `vi.restoreAllMocks`. */
export function fakeNet(): { taps: FakeTaps; engines: FakeNetEngine[] } {
  const [taps, engines] = [new FakeTaps(), [] as FakeNetEngine[]];
  onTestFinished(() => rmSync(taps.folder, { recursive: true }));
  vi.spyOn(native, 'taps', 'get').mockReturnValue(taps);
  const make = vi.fn(function make(options: NetEngineOptions) {
    engines.push(new FakeNetEngine(options));
    return engines.at(-1);
  });
  vi.spyOn(native, 'NetEngine', 'get').mockReturnValue(make as never);
  return { taps, engines };
}

/** A card as the command line would have it made. */
export function netConfig(card: object): NetConfig {
  const [config] = normaliseCli({ payload: {}, net: [card] }).net as NetConfig[];
  if (!config) throw new Error('No card');
  return config;
}
