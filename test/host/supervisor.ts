/**
 * Keeps an emulated host running: starts it, publishes where it is, and starts it again if its own
 * kernel dies or stops answering, which happens now and then under nested guests. Nothing else is
 * ever tried twice.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import { withResolvers } from '../../guest-images/command.ts';
import { ping } from './agent-client.ts';
import { EmulatedMachine, type MachineEnd, type MachineOptions } from './emulated-machine.ts';
import { type HostState, removeState, writeState } from './state-file.ts';

const RESTARTS_MAX = 2;
const BOOT_TIMEOUT_MS = 120_000;
const HEARTBEAT_MS = 5000;
/** Long, because a machine whose cores are all busy with guests answers late, and is well. */
const HEARTBEAT_TIMEOUT_MS = 45_000;

type End = MachineEnd | { kind: 'no-answer'; reason: string };

export class HostSupervisor {
  /** Rejects when the host is gone for good. */
  readonly failed: Promise<never>;
  readonly #failure = withResolvers<never>();
  readonly #options: MachineOptions;
  readonly #statePath: string;
  #machine: EmulatedMachine | undefined;
  #restarts = 0;
  #closed = false;

  private constructor(options: MachineOptions, statePath: string) {
    this.failed = this.#failure.promise;
    this.failed.catch(() => {}); // the state file tells those who use it
    this.#options = options;
    this.#statePath = statePath;
  }

  /**
   * Starts a host, which others find through the state file.
   *
   * @throws Error with the path of the console if it does not come up.
   */
  static async start(options: MachineOptions, statePath: string): Promise<HostSupervisor> {
    const supervisor = new HostSupervisor(options, statePath);
    try {
      await supervisor.#boot();
      return supervisor;
    } catch (error) {
      await supervisor.close();
      throw error;
    }
  }

  /** Ends the host. */
  async close(): Promise<void> {
    this.#closed = true;
    await this.#machine?.stop();
    await removeState(this.#statePath);
  }

  async #boot(): Promise<void> {
    const started = Date.now();
    const machine = await EmulatedMachine.start(this.#options);
    this.#machine = machine;
    await this.#publish(machine, 'starting');
    const end = await Promise.race([machine.ended, firstAnswer(machine)]);
    if (end !== 'up') return this.#handleEnd(machine, end);
    await this.#publish(machine, 'up');
    const seconds = ((Date.now() - started) / 1000).toFixed(1);
    console.log(`[host] The emulated host is up after ${seconds} s`);
    this.#watch(machine).catch(this.#failure.reject);
  }

  async #watch(machine: EmulatedMachine): Promise<void> {
    const end = await Promise.race([machine.ended, silence(machine)]);
    if (!this.#closed) await this.#handleEnd(machine, end);
  }

  async #handleEnd(machine: EmulatedMachine, end: End): Promise<void> {
    await machine.stop();
    if (end.kind === 'exit' || this.#restarts === RESTARTS_MAX) {
      const again = this.#restarts > 0 ? `, after ${this.#restarts} new starts` : '';
      const reason = `The emulated host failed${again}: ${end.reason}`;
      await this.#publish(machine, 'failed', reason);
      throw new Error(`${reason}; its console is in ${this.#options.consolePath}`);
    }
    this.#restarts++;
    const count = `${this.#restarts} of ${RESTARTS_MAX}`;
    console.log(`[host] The emulated host died: ${end.reason}. Starting it again (${count})`);
    console.log(`[host] Its console is in ${this.#options.consolePath}`);
    await this.#boot();
  }

  async #publish(
    { port, id }: EmulatedMachine,
    status: HostState['status'],
    reason?: string,
  ): Promise<void> {
    const { consolePath } = this.#options;
    const state = { status, ownerPid: process.pid, port, id, consolePath };
    await writeState(this.#statePath, reason === undefined ? state : { ...state, reason });
  }
}

async function firstAnswer(machine: EmulatedMachine): Promise<'up' | End> {
  const deadline = Date.now() + BOOT_TIMEOUT_MS;
  while (Date.now() < deadline) {
    // Until the agent listens, QEMU's user network takes connections and drops them.
    const id = await ping(machine.port, 1000).catch(() => undefined);
    if (id === machine.id) return 'up';
    await sleep(100);
  }
  return { kind: 'no-answer', reason: `no answer in ${BOOT_TIMEOUT_MS} ms after its start` };
}

/** Resolves when the agent has not answered for `HEARTBEAT_TIMEOUT_MS`. */
async function silence(machine: EmulatedMachine): Promise<End> {
  let lastAnswer = Date.now();
  while (Date.now() - lastAnswer < HEARTBEAT_TIMEOUT_MS) {
    await sleep(HEARTBEAT_MS, undefined, { ref: false });
    const answered = await ping(machine.port, HEARTBEAT_TIMEOUT_MS).catch(() => undefined);
    if (answered) lastAnswer = Date.now();
  }
  return { kind: 'no-answer', reason: `no answer for ${HEARTBEAT_TIMEOUT_MS} ms` };
}
