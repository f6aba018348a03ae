/**
 * The VMM: holds at most one VM, as its config and, once booted, as a `Vm`. Every verb of the API is
 * a method here; they run one after another, and none can hang, whatever the guest does.
 */
import { errorChain, VmmError } from '../errors.ts';
import { checkBootable, checkConfig } from './config/check.ts';
import { ramBytes } from './config/memory.ts';
import type { VmConfig } from './config.ts';
import type { DeviceTree } from './device-tree.ts';
import { nextState, notCreated, type State, type Verb } from './states.ts';
import { checkFiles, Vm } from './vm.ts';

export interface VmmOptions {
  /** Stay when the guest powers off, as after vm.shutdown. */
  noShutdown: boolean;
  /** The process is to end, with this exit code. Called once; nothing runs any more. */
  onExit: (code: number) => void;
  onWarning: (message: string) => void;
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
  info: 'The VM info is not available',
};

export class Vmm<Dialect> {
  readonly #options: VmmOptions;
  #state: State = 'None';
  #created: { config: VmConfig; dialect: Dialect } | undefined;
  #vm: Vm | undefined;
  #turn: Promise<unknown> = Promise.resolve();
  #exiting = false;

  constructor(options: VmmOptions) {
    this.#options = options;
  }

  /** Answers at once, also while a verb runs: with the state before it. */
  async info(): Promise<VmInfo<Dialect>> {
    if (!this.#created) throw new VmmError('not-created', FAILURE.info, notCreated());
    const { config, dialect } = this.#created;
    const memoryActualSize = ramBytes(config.memory);
    const tree = this.#vm && { deviceTree: this.#vm.deviceTree };
    return { config, dialect, state: this.#state, memoryActualSize, ...tree };
  }

  /** Validates all that can be known before a boot, and keeps the config. */
  create(config: VmConfig, dialect: Dialect): Promise<void> {
    return this.#do('create', async () => {
      checkConfig(config);
      if (config.payload?.kernel !== undefined) checkFiles(config);
      this.#created = { config, dialect };
    });
  }

  /** If it fails, the config stays, and can be booted again. */
  boot(): Promise<void> {
    return this.#do('boot', () => this.#boot());
  }

  pause(): Promise<void> {
    return this.#do('pause', async () => this.#vm?.pause());
  }

  resume(): Promise<void> {
    return this.#do('resume', async () => this.#vm?.resume());
  }

  shutdown(): Promise<void> {
    return this.#do('shutdown', () => this.#shutdown());
  }

  /** A new boot of the same config. If that fails, the VM is Created. */
  reboot(): Promise<void> {
    return this.#do('reboot', async () => {
      await this.#shutdown();
      this.#state = 'Created';
      await this.#boot();
    });
  }

  delete(): Promise<void> {
    return this.#do('delete', async () => {
      await this.#shutdown();
      this.#created = undefined;
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
  async counters(): Promise<Record<string, Record<string, number>>> {
    await this.#do('counters', async () => {});
    return {};
  }

  /** Ends the VM, then the process. Idempotent. */
  async exit(code: number): Promise<void> {
    if (this.#exiting) return;
    this.#exiting = true;
    await this.#exclusively(() => this.#shutdown());
    this.#options.onExit(code);
  }

  async #boot(): Promise<void> {
    const { config } = this.#existing();
    checkBootable(config);
    // A guest may ask many times before its vCPUs have stopped; it is heard once.
    let asked = false;
    const once = (work: () => Promise<void>) => () => {
      if (!asked) void work();
      asked = true;
    };
    this.#vm = await Vm.boot(config, {
      onReset: once(() => this.#onGuestReset()),
      onPowerOff: once(() => this.#onGuestPowerOff()),
      onError: (error) => this.#options.onWarning(error.message),
    });
  }

  async #shutdown(): Promise<void> {
    await this.#vm?.shutdown();
    this.#vm = undefined;
  }

  #existing(): { config: VmConfig; dialect: Dialect } {
    if (!this.#created) throw new VmmError('internal', 'VM config is missing');
    return this.#created;
  }

  /** A guest that cannot be started again stays shut down; only the log can tell. */
  async #onGuestReset(): Promise<void> {
    await this.reboot().catch((error: unknown) => {
      this.#options.onWarning(errorChain(error).join(': '));
    });
  }

  async #onGuestPowerOff(): Promise<void> {
    if (this.#options.noShutdown) await this.shutdown().catch(() => {});
    else await this.exit(0);
  }

  /** Runs a verb in its turn: checks the state, does the work, enters the next state. */
  #do(verb: Verb, work: () => Promise<void>): Promise<void> {
    return this.#exclusively(async () => {
      try {
        const next = nextState(this.#state, verb);
        await work();
        this.#state = next;
      } catch (cause) {
        throw new VmmError(
          cause instanceof VmmError ? cause.kind : 'internal',
          FAILURE[verb],
          cause,
        );
      }
    });
  }

  #exclusively(work: () => Promise<void>): Promise<void> {
    const done = this.#turn.then(work);
    this.#turn = done.catch(() => {});
    return done;
  }
}
