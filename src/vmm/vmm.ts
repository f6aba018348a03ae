/**
 * The VMM: holds at most one VM, as its config and, once booted, as a `Vm`. Every verb of the API
 * is a method here; they run one after another, and none can hang, whatever the guest does.
 */
import { closeSync } from 'node:fs';
import { errorChain, VmmError } from '../errors.ts';
import { checkBootable, checkChange, checkConfig } from './config/check.ts';
import { ramBytes, resizedRam, resizedZone } from './config/memory.ts';
import {
  checkDiskSize,
  type ResizeDiskConfig,
  withDevice,
  withoutDevice,
} from './config/plugging.ts';
import { type ResizeConfig, type ResizeZoneConfig, resizeCpus } from './config/resize.ts';
import type { VmConfig } from './config.ts';
import { Consoles } from './consoles.ts';
import type { DeviceTree } from './device-tree.ts';
import {
  assignIds,
  checkDevices,
  checkPluggable,
  type ListField,
  lastDevice,
  withFound,
  withIommu,
} from './devices.ts';
import type { OnEvent, VmmEvent } from './events.ts';
import { nextState, notCreated, type State, type Verb } from './states.ts';
import { checkFiles, Vm } from './vm.ts';

export interface VmmOptions {
  /** Stay when the guest powers off, as after vm.shutdown. */
  noShutdown: boolean;
  /** The process is to end, with this exit code. Called once; nothing runs any more. */
  onExit: (code: number) => void;
  onWarning: (message: string) => void;
  onEvent: OnEvent;
}

export interface VmInfo<Dialect> {
  config: VmConfig;
  /** Whatever `create` was told. */
  dialect: Dialect;
  state: State;
  /** RAM that the guest has now, in bytes. */
  memoryActualSize: number;
  /** While the VM is booted. */
  deviceTree?: DeviceTree;
}

/** What is there from `create` to `delete`. */
interface Created<Dialect> {
  config: VmConfig;
  /** What devices found out at the last boot. It is told, and found out anew at the next. */
  found: ReadonlyMap<string, object>;
  dialect: Dialect;
  consoles: Consoles;
  /** Of the next device that gets an id. */
  nextId: number;
  /** Files of taps that clients sent, as long as the config names them. */
  readonly fds: Set<number>;
}

/** A device of a VM that is booted: where the guest finds it. */
export interface PlacedDevice {
  id: string;
  bdf: string;
}

/** What the event monitor is told of a VM. */
type VmStep = Exclude<Extract<VmmEvent, { source: 'vm' }>['event'], 'device-removed'>;

/** Of verbs: before the work, and after it if it did not fail. */
const STEPS: { readonly [V in Verb]?: readonly [VmStep, VmStep] } = {
  boot: ['booting', 'booted'],
  pause: ['pausing', 'paused'],
  resume: ['resuming', 'resumed'],
  resize: ['resizing', 'resized'],
};

/** The outermost text of a failure, by verb. */
const FAILURE: Record<Verb | 'info', string> = {
  create: 'The VM could not be created',
  boot: 'The VM could not boot',
  pause: 'The VM could not be paused',
  resume: 'The VM could not resume',
  snapshot: 'The VM could not be snapshotted',
  shutdown: 'The VM could not shutdown',
  reboot: 'The VM could not reboot',
  delete: 'The VM could not be deleted',
  powerButton: 'Error triggering power button',
  nmi: 'Error triggering NMI',
  counters: 'The VM info is not available',
  resize: 'The VM could not be resized',
  resizeZone: 'The memory zone could not be resized',
  resizeDisk: 'The disk could not be resized',
  addDevice: 'The device could not be added to the VM',
  removeDevice: 'The device could not be removed from the VM',
  info: 'The VM info is not available',
};

/** What could not be added, by field of the config. */
const ADDED: Record<ListField, string> = {
  disks: 'disk',
  net: 'network device',
  generic_vhost_user: 'generic vhost-user device',
  fs: 'fs',
  pmem: 'pmem device',
  vsock: 'vsock device',
  vdpa: 'vDPA device',
  devices: 'device',
  user_devices: 'user device',
};

export class Vmm<Dialect> {
  readonly #options: VmmOptions;
  #state: State = 'None';
  #created: Created<Dialect> | undefined;
  #vm: Vm | undefined;
  #turn: Promise<unknown> = Promise.resolve();
  #exiting = false;
  /** What the guest asked for just before it was paused. */
  #owed: (() => Promise<void>) | undefined;

  constructor(options: VmmOptions) {
    this.#options = options;
  }

  /** Answers at once, also while a verb runs: with the state before it. */
  async info(): Promise<VmInfo<Dialect>> {
    if (!this.#created) throw new VmmError('not-created', FAILURE.info, notCreated());
    const { dialect, found } = this.#created;
    const config = withFound(this.#created.config, found);
    const memoryActualSize = this.#vm?.memoryActualSize ?? ramBytes(config.memory);
    const tree = this.#vm && { deviceTree: this.#vm.deviceTree };
    return { config, dialect, state: this.#state, memoryActualSize, ...tree };
  }

  /** Validates all that can be known before a boot, and keeps the config. */
  create(config: VmConfig, dialect: Dialect): Promise<void> {
    return this.#do('create', async () => {
      checkConfig(config);
      checkDevices(config);
      if (config.payload?.kernel !== undefined) checkFiles(config);
      this.#keep(config, dialect);
    });
  }

  /** For a config that was checked: what is wrong with its files, the boot finds. */
  async createAndBoot(config: VmConfig, dialect: Dialect): Promise<void> {
    await this.#do('create', async () => this.#keep(config, dialect));
    await this.boot();
  }

  /** If it fails, the config stays, and can be booted again. */
  boot(): Promise<void> {
    return this.#do('boot', () => this.#boot());
  }

  pause(): Promise<void> {
    return this.#do('pause', async () => this.#vm?.pause());
  }

  async resume(): Promise<void> {
    await this.#do('resume', async () => this.#vm?.resume());
    const owed = this.#owed;
    this.#owed = undefined;
    if (owed) void this.#onGuest(owed);
  }

  shutdown(): Promise<void> {
    return this.#do('shutdown', () => this.#powerDown());
  }

  /** A new boot of the same config. If that fails, the VM is Created. */
  reboot(): Promise<void> {
    return this.#do('reboot', () => this.#reboot());
  }

  delete(): Promise<void> {
    return this.#do('delete', async () => {
      await this.#delete();
    });
  }

  /** What the guest does of it is its business; a paused one hears of it after `resume`. */
  powerButton(): Promise<void> {
    return this.#do('powerButton', async () => this.#vm?.powerButton());
  }

  /** To every vCPU. */
  nmi(): Promise<void> {
    return this.#do('nmi', async () => this.#vm?.nmi());
  }

  /** Of each device that counts, by id: what it counted since the boot. */
  counters(): Promise<ReturnType<Vm['counters']>> {
    return this.#do('counters', async () => this.#vm?.counters() ?? {});
  }

  /** In this order; what was done before one of them fails, stays. */
  resize(wanted: ResizeConfig): Promise<void> {
    const { desired_vcpus: vcpus, desired_ram: ramBytes, desired_balloon: balloonBytes } = wanted;
    return this.#do('resize', async () => {
      if (vcpus !== undefined)
        await this.#amend(
          ({ cpus, ...rest }) => ({ ...rest, cpus: resizeCpus(cpus, vcpus) }),
          (vm) => vm.resizeVcpus(vcpus),
        );
      if (ramBytes !== undefined)
        await this.#amend(
          ({ memory, ...rest }) => ({ ...rest, memory: resizedRam(memory, ramBytes) }),
          (vm) => vm.resizeRam(ramBytes),
        );
      if (balloonBytes !== undefined)
        await this.#amend(
          ({ balloon, ...rest }) => ({
            ...rest,
            ...(balloon && { balloon: { ...balloon, size: balloonBytes } }),
          }),
          (vm) => vm.resizeBalloon(balloonBytes),
        );
    });
  }

  /** The guest is asked for it: see Vm. */
  resizeZone({ id, desired_ram: ramBytes }: ResizeZoneConfig): Promise<void> {
    return this.#do('resizeZone', () =>
      this.#amend(
        ({ memory, ...rest }) => ({ ...rest, memory: resizedZone(memory, id, ramBytes) }),
        (vm) => vm.resizeZone(id, ramBytes),
      ),
    );
  }

  /** The guest sees the new size. */
  resizeDisk(wanted: ResizeDiskConfig): Promise<void> {
    return this.#do('resizeDisk', async () => {
      checkDiskSize(wanted);
      await this.#vm?.resizeDisk(wanted.id, wanted.desired_size);
    });
  }

  /**
   * Without a guest it becomes part of the config, and nothing is returned.
   * @param read gives the device as the dialect of the VM has it.
   * @param fds of the tap of a network card: taken out of the list if all goes well.
   */
  addDevice(
    field: ListField,
    read: (dialect: Dialect) => object,
    fds: number[] = [],
  ): Promise<PlacedDevice | undefined> {
    const work = async () => {
      const created = this.#existing();
      const device = { ...read(created.dialect), ...(fds.length > 0 && { fds: [...fds] }) };
      const placed = await this.#add(created, field, device);
      for (const fd of fds.splice(0)) created.fds.add(fd);
      return placed;
    };
    return this.#do('addDevice', work, `The ${ADDED[field]} could not be added to the VM`);
  }

  /** A guest is asked for it; the config is without it at once. */
  removeDevice(id: string): Promise<void> {
    return this.#do('removeDevice', async () => {
      const created = this.#existing();
      const config = withoutDevice(created.config, id);
      if (this.#vm) await this.#vm.removeDevice(id);
      else if (!config) throw new VmmError('not-found', `No device with id "${id}" to remove`);
      created.config = config ?? created.config;
      const named = new Set(created.config.net?.flatMap(({ fds = [] }) => fds));
      closeAll(created.fds, (fd) => !named.has(fd));
    });
  }

  /** Ends the VM, then the process. Idempotent. */
  async exit(code: number): Promise<void> {
    if (this.#exiting) return;
    this.#exiting = true;
    await this.#exclusively(() => this.#delete());
    this.#leave(code);
  }

  /** Changes the config, and first the VM if it is booted: a config that it refuses is not kept. */
  async #amend(
    change: (config: VmConfig) => VmConfig,
    apply: (vm: Vm) => Promise<void>,
  ): Promise<void> {
    const created = this.#existing();
    const config = change(created.config);
    if (this.#vm) await apply(this.#vm);
    else checkConfig(config);
    created.config = config;
  }

  async #add(
    created: Created<Dialect>,
    field: ListField,
    device: object,
  ): Promise<PlacedDevice | undefined> {
    const vm = this.#vm;
    const wanted = withDevice(created.config, field, device);
    const named = vm && assignIds(wanted, created.nextId);
    const config = named?.config ?? wanted;
    checkChange(created.config, config);
    if (!vm) checkDevices({ [field]: config[field] });
    else checkPluggable(lastDevice(config, field));
    const placed = await vm?.addDevice(lastDevice(config, field));
    created.config = config;
    created.nextId = named?.counter ?? created.nextId;
    return placed;
  }

  async #boot(): Promise<void> {
    const created = this.#existing();
    const { consoles } = created;
    checkBootable(created.config);
    const segments = created.config.platform?.iommu_segments ?? [];
    const whole = withIommu(created.config, segments);
    const { config, counter } = assignIds(whole, created.nextId);
    consoles.open();
    // A guest may ask many times before its vCPUs have stopped; it is heard once.
    let asked = false;
    const once = (work: () => Promise<void>) => () => {
      if (!asked) void this.#onGuest(work);
      asked = true;
    };
    this.#vm = await Vm.boot(config, consoles, {
      onReset: once(() => this.#reboot()),
      onPowerOff: once(() => this.#powerOff()),
      onError: (error) => this.#options.onWarning(error.message),
      onWarning: this.#options.onWarning,
      onEvent: this.#options.onEvent,
    });
    created.config = config;
    created.found = this.#vm.found;
    created.nextId = counter;
  }

  async #shutdown(): Promise<void> {
    if (this.#vm && this.#created)
      this.#created.config = withFound(this.#created.config, this.#vm.kept);
    await this.#vm?.shutdown();
    this.#vm = undefined;
    this.#owed = undefined;
  }

  /** Unlike at a reboot, the far side of the consoles is told. */
  async #powerDown(): Promise<void> {
    await this.#shutdown();
    this.#created?.consoles.hangUp();
    this.#tell('shutdown');
  }

  async #delete(): Promise<void> {
    const { vm, created } = { vm: this.#vm, created: this.#created };
    await this.#shutdown();
    if (vm) this.#tell('shutdown');
    created?.consoles.close();
    closeAll(created?.fds);
    this.#created = undefined;
    if (created) this.#tell('deleted');
  }

  #leave(code: number): void {
    this.#options.onEvent({ source: 'vmm', event: 'shutdown' });
    this.#options.onExit(code);
  }

  #tell(event: VmStep): void {
    this.#options.onEvent({ source: 'vm', event });
  }

  #keep(config: VmConfig, dialect: Dialect): void {
    const consoles = new Consoles(config);
    const found = new Map();
    if (config.landlock_enable)
      this.#options.onWarning('landlock_enable has no effect: access to files is not confined');
    this.#created = {
      ...{ config: consoles.named(config), found, dialect, consoles },
      ...{ nextId: 0, fds: new Set() },
    };
  }

  #existing(): Created<Dialect> {
    if (!this.#created) throw new VmmError('internal', 'VM config is missing');
    return this.#created;
  }

  async #reboot(): Promise<void> {
    this.#tell('rebooting');
    await this.#shutdown();
    try {
      await this.#boot();
      this.#tell('rebooted');
      this.#state = 'Running';
    } catch (error) {
      this.#state = 'Created';
      throw error;
    }
  }

  async #powerOff(): Promise<void> {
    await this.#powerDown();
    this.#state = 'Created';
    if (this.#options.noShutdown || this.#exiting) return;
    this.#exiting = true;
    await this.#delete();
    this.#leave(0);
  }

  /**
   * Does in its turn what the guest asked for. Where a pause came in between, it waits for `resume`,
   * as the guest does. A guest that cannot start again stays shut down; only the log can tell.
   */
  async #onGuest(work: () => Promise<void>): Promise<void> {
    const vm = this.#vm;
    try {
      await this.#exclusively(async () => {
        if (this.#vm !== vm) return;
        if (this.#state === 'Paused') this.#owed = work;
        else await work();
      });
    } catch (error) {
      this.#options.onWarning([FAILURE.reboot, ...errorChain(error)].join(': '));
    }
  }

  /** Runs a verb in its turn: checks the state, does the work, enters the next state. */
  #do<T>(verb: Verb, work: () => Promise<T>, failure = FAILURE[verb]): Promise<T> {
    return this.#exclusively(async () => {
      try {
        const next = nextState(this.#state, verb);
        // A config alone changes unheard.
        const [before, after] = (verb === 'boot' || this.#vm ? STEPS[verb] : undefined) ?? [];
        if (before) this.#tell(before);
        const result = await work();
        this.#state = next;
        if (after) this.#tell(after);
        return result;
      } catch (cause) {
        throw new VmmError(cause instanceof VmmError ? cause.kind : 'internal', failure, cause);
      }
    });
  }

  #exclusively<T>(work: () => Promise<T>): Promise<T> {
    const done = this.#turn.then(work);
    this.#turn = done.catch(() => {});
    return done;
  }
}

/** Those that `isOver` says; they are no longer in the set. */
function closeAll(fds = new Set<number>(), isOver = (_: number) => true): void {
  for (const fd of [...fds].filter(isOver)) {
    closeSync(fd);
    fds.delete(fd);
  }
}
