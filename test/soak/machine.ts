/**
 * A VM that changes all the time, with a model of what it must have become: each step is answered
 * as the model says, or throws.
 */
import { readFileSync, truncateSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { guestConfig } from '../compat/support/guests.ts';
import { type Answer, VmmProcess } from '../compat/support/vmm-process.ts';
import { bareGuest } from '../support/bare-guest.ts';

const MIB = 1 << 20;
const RAM_BYTES = 64 * MIB;
const RAM_STEP_BYTES = 128 * MIB;
/** How many pieces of RAM may come until a reboot. */
const RAM_STEPS = 8;
const CPUS = 4;
const DISK_BYTES_MAX = 4 * MIB;
const SECTOR_BYTES = 512;
/** Of a guest without a CPU of its own, on a machine that is busy. */
const WAIT_MS_MAX = 60_000;
const POLL_MS = 5;
const GUEST_MS_MAX = 30;
const HISTORY_STEPS = 100;
const SERIAL_CHARS = 1000;

/** What may be plugged: as many of each kind, by id. */
const KINDS = { disk: 5, net: 3, pmem: 3, vsock: 1 } as const;
type Kind = keyof typeof KINDS;

interface Plugged {
  id: string;
  kind: Kind;
  body: object;
  /** `leaving`: the guest has been asked, and may have let go by now. */
  state: 'absent' | 'present' | 'leaving';
}

interface Info {
  state: string;
  config: { cpus: { boot_vcpus: number } } & Record<string, { id: string }[] | undefined>;
  device_tree?: Record<string, object>;
}

/** A number from 0 to below `below`. */
export type Random = (below: number) => number;

export class Machine implements AsyncDisposable {
  readonly vmm: VmmProcess;
  /** How often each step was answered with what. */
  readonly counts = new Map<string, number>();
  /** The last steps, newest last. */
  readonly #history: string[] = [];
  readonly infoMs: number[] = [];
  readonly #random: Random;
  readonly #devices: Plugged[];
  #vcpus = 1;
  #isPaused = false;

  private constructor(vmm: VmmProcess, random: Random) {
    this.vmm = vmm;
    this.#random = random;
    this.#devices = Object.entries(KINDS).flatMap(([kind, count]) =>
      Array.from({ length: count }, (_, n) => this.#device(kind as Kind, n)),
    );
  }

  /** Resolves when its guest runs. */
  static async boot(random: Random): Promise<Machine> {
    const vmm = await VmmProcess.start({ stdio: ['ignore', 'ignore', 'inherit'] });
    const machine = new Machine(vmm, random);
    await machine.#boot();
    return machine;
  }

  /** One step, or a few at once; then the guest may have time for it, or not. */
  async step(): Promise<void> {
    await Promise.all([this.#change(), this.info()]);
    await sleep(this.#random(GUEST_MS_MAX));
  }

  #change(): Promise<void> {
    const steps: [number, () => Promise<void>][] = [
      [60, () => this.#plugSome()],
      [10, () => this.#resizeDisk()],
      [8, () => this.#resizeVcpus(1 + this.#random(CPUS))],
      [4, () => this.#resizeRam()],
      [4, () => this.#resizeBalloon()],
      [6, () => this.#refusals()],
      this.#isPaused ? [30, () => this.#resume()] : [6, () => this.#pause()],
      [2, () => this.#reboot()],
    ];
    let at = this.#random(steps.reduce((sum, [weight]) => sum + weight, 0));
    for (const [weight, work] of steps) {
      if (at < weight) return work();
      at -= weight;
    }
    return Promise.resolve();
  }

  /** Whether all is as the model says; then every device goes, and there is a new VM. */
  async rest(): Promise<void> {
    if (this.#isPaused) await this.#resume();
    await this.#until('all is as it was asked for', async () => this.#agrees(await this.info()));
    for (const device of this.#devices) if (device.state === 'present') await this.#remove(device);
    await this.#until('all devices are gone', async () => this.#agrees(await this.info()));
    for (const device of this.#devices) device.state = 'absent';
    await this.#expect([204], 'vm.delete');
    await this.#boot();
  }

  /** The guest finds a disk, and reads what is on it. */
  async checkGuest(): Promise<void> {
    const disk = this.#devices.find(({ kind }) => kind === 'disk');
    if (!disk) throw new Error('There is no disk');
    const value = 1 + this.#random(255);
    writeFileSync(this.#path(disk.id), Buffer.alloc(MIB, value));
    const heard = this.#serial().length;
    await this.#add(disk);
    const sectors = MIB / SECTOR_BYTES;
    const says = `reads ${sectors} sectors, sum ${value * sectors}, failed 0\n`;
    await this.#until('the guest reads its disk', () => this.#serial().includes(says, heard));
    await this.#remove(disk);
    await this.#until('the disk is gone', async () => this.#agrees(await this.info()));
    disk.state = 'absent';
  }

  /** The last steps, what the guest has said since it booted, and how the VM is. */
  async portrait(): Promise<string> {
    const { body } = await this.vmm.get('vm.info');
    return [...this.#history, this.#serial().slice(-SERIAL_CHARS), JSON.stringify(body)].join('\n');
  }

  async info(): Promise<Info> {
    const asked = performance.now();
    const { status, body } = await this.vmm.get('vm.info');
    this.infoMs.push(performance.now() - asked);
    if (status !== 200) throw new Error(`vm.info was answered with ${status}`);
    return body as Info;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.vmm[Symbol.asyncDispose]();
  }

  async #boot(): Promise<void> {
    await this.#expect([204], 'vm.create', {
      ...guestConfig(this.vmm.folder),
      payload: { kernel: bareGuest('plug') },
      cpus: { boot_vcpus: 1, max_vcpus: CPUS, max_phys_bits: 36 },
      memory: { size: RAM_BYTES, hotplug_size: RAM_STEPS * RAM_STEP_BYTES },
      balloon: { size: 0 },
    });
    await this.#expect([204], 'vm.boot');
    this.#vcpus = 1;
    await this.#booted();
  }

  #device(kind: Kind, n: number): Plugged {
    const id = `${kind}${n}`;
    const path = this.#path(id);
    const bodies = {
      disk: { path },
      net: {},
      pmem: { file: path },
      vsock: { cid: 3, socket: path },
    };
    if (kind === 'disk' || kind === 'pmem') {
      writeFileSync(path, '');
      truncateSync(path, 2 * MIB);
    }
    return { id, kind, body: { ...bodies[kind], id }, state: 'absent' };
  }

  #path = (name: string): string => join(this.vmm.folder, name);
  #serial = (): string => readFileSync(this.#path('serial'), 'latin1');

  /** Up to three devices come or go at once. */
  async #plugSome(): Promise<void> {
    const count = 1 + this.#random(3);
    const first = this.#random(this.#devices.length);
    const some = [...this.#devices, ...this.#devices].slice(first, first + count);
    await Promise.all(
      some.map((device) => (device.state === 'present' ? this.#remove(device) : this.#add(device))),
    );
  }

  /** One that the guest has not let go of yet cannot come again. */
  async #add(device: Plugged): Promise<void> {
    const allowed = device.state === 'leaving' ? [200, 409] : [200];
    const status = await this.#expect(allowed, `vm.add-${device.kind}`, device.body);
    if (status === 200) device.state = 'present';
  }

  async #remove(device: Plugged): Promise<void> {
    await this.#expect([204], 'vm.remove-device', { id: device.id });
    device.state = 'leaving';
  }

  async #resizeDisk(): Promise<void> {
    const disk = this.#devices.find(({ kind, state }) => kind === 'disk' && state === 'present');
    const desired_size = SECTOR_BYTES * (1 + this.#random(DISK_BYTES_MAX / SECTOR_BYTES));
    if (disk) await this.#expect([204], 'vm.resize-disk', { id: disk.id, desired_size });
  }

  /** While one is to go, there is no other number. */
  async #resizeVcpus(desired_vcpus: number): Promise<void> {
    const status = await this.#expect([204, 429], 'vm.resize', { desired_vcpus });
    if (status === 204) this.#vcpus = desired_vcpus;
  }

  /** More than there is takes one of few places. */
  async #resizeRam(): Promise<void> {
    const desired_ram = RAM_BYTES + RAM_STEP_BYTES * this.#random(RAM_STEPS + 1);
    await this.#expect([204, 400], 'vm.resize', { desired_ram });
  }

  async #resizeBalloon(): Promise<void> {
    const desired_balloon = this.#random(RAM_BYTES / MIB) * MIB;
    await this.#expect([204], 'vm.resize', { desired_balloon });
  }

  /** What must be refused, and changes nothing. */
  async #refusals(): Promise<void> {
    const present = this.#devices.find(({ state }) => state === 'present');
    await this.#expect([404], 'vm.remove-device', { id: 'nobody' });
    await this.#expect([400], 'vm.remove-device', { id: '__rng' });
    await this.#expect([400], 'vm.add-disk', { path: this.#path('none') });
    await this.#expect([400], 'vm.resize', { desired_vcpus: CPUS + 1 });
    if (present) await this.#expect([400, 409], `vm.add-${present.kind}`, present.body);
  }

  async #pause(): Promise<void> {
    await this.#expect([204], 'vm.pause');
    this.#isPaused = true;
  }

  async #resume(): Promise<void> {
    await this.#expect([204], 'vm.resume');
    this.#isPaused = false;
  }

  async #reboot(): Promise<void> {
    await this.#expect([204], 'vm.reboot');
    this.#isPaused = false;
    await this.#booted();
    for (const device of this.#devices) if (device.state === 'leaving') device.state = 'absent';
  }

  /** The serial port's file is empty at each boot. */
  async #booted(): Promise<void> {
    await this.#until('the guest is ready', () => this.#serial().includes('ready\n'));
  }

  /** The guest runs, and has nothing but what it was given. */
  #agrees({ state, config, device_tree = {} }: Info): boolean {
    const ids = (of: (device: Plugged) => boolean): string =>
      this.#devices
        .filter(of)
        .map(({ id }) => id)
        .sort()
        .join();
    const fields = { disk: 'disks', net: 'net', pmem: 'pmem', vsock: 'vsock' };
    const configured = Object.values(fields)
      .flatMap((field) => [config[field] ?? []].flat())
      .map(({ id }) => id);
    return (
      state === 'Running' &&
      config.cpus.boot_vcpus === this.#vcpus &&
      configured.sort().join() === ids((device) => device.state === 'present') &&
      ids(({ id }) => id in device_tree) === ids((device) => device.state === 'present')
    );
  }

  /** @returns which of the statuses it was. @throws Error for any other. */
  async #expect(allowed: readonly number[], verb: string, body?: object): Promise<number> {
    const answer: Answer = await this.vmm.put(verb, body);
    const said = `${verb} ${JSON.stringify(body ?? {})}: ${answer.status}`;
    this.#history.push(said);
    if (this.#history.length > HISTORY_STEPS) this.#history.shift();
    const counted = `${verb} ${answer.status}`;
    this.counts.set(counted, (this.counts.get(counted) ?? 0) + 1);
    if (allowed.includes(answer.status ?? 0)) return answer.status ?? 0;
    throw new Error(`${said}, ${JSON.stringify(answer.body)}`);
  }

  async #until(what: string, holds: () => boolean | Promise<boolean>): Promise<void> {
    for (const end = Date.now() + WAIT_MS_MAX; Date.now() < end; await sleep(POLL_MS))
      if (await holds()) return;
    throw new Error(`Not within ${WAIT_MS_MAX} ms: ${what}`);
  }
}
