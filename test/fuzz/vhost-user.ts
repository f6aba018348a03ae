/**
 * Fuzzes what a backend of vhost-user says: answers that are mostly good, and now and then cut,
 * bent, doubled, of another request, with descriptors too many or too few; and requests of its own.
 *
 * Whatever it says, each call of ours resolves to something within its limits, or rejects, and then
 * the connection is over; a backend that is told of its loss is told once; no descriptor stays
 * open. One that says nothing wrong is served to the end.
 */
import { closeSync, openSync, readdirSync, unlinkSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setImmediate as tick } from 'node:timers/promises';
import { Frontend } from '../../src/devices/vhost-user/frontend.ts';
import {
  BACKEND_REQUEST,
  encode,
  encodeInflight,
  encodeU64,
  F_PROTOCOL_FEATURES,
  type Message,
  MessageReader,
  PROTOCOL,
  REQUEST,
} from '../../src/devices/vhost-user/protocol.ts';
import { SharedMemory } from '../../src/devices/vhost-user/shared-memory.ts';
import { F_VERSION_1 } from '../../src/devices/virtio/device.ts';
import { closeAll } from '../../src/fd-messages.ts';
import { native } from '../../src/native.ts';
import type { FdSocket } from '../../src/native-sockets.ts';
import { random } from './random.ts';

type Below = (n: number) => number;

const MIB = 1 << 20;
const WINDOW_BYTES = 8 * MIB;
const CONFIG_BYTES = 60;
const HEADER_BYTES = 12;
const QUEUES = 2;
const ALL = Object.values(PROTOCOL).reduce((all, bit) => all | bit, 0n);
const OWN_REQUESTS = Object.values(BACKEND_REQUEST);

/** A rule is broken: by us, and not by the backend. */
class BrokenRuleError extends Error {}

function check(holds: boolean, message: string): asserts holds {
  if (!holds) throw new BrokenRuleError(message);
}

const ignore = () => {};
const IGNORE = { onEnd: ignore, onDrain: ignore, onClose: ignore };

/** The far end. `wildness` in a thousand of its answers are not as they should be. */
class FuzzedBackend {
  isTame = true;
  answeredCount = 0;
  readonly #below: Below;
  readonly #wildness: number;
  readonly #protocol: bigint;
  readonly #file: number;
  readonly #socket: FdSocket;
  #requests: FdSocket | undefined;

  constructor(fd: number, file: number, below: Below) {
    this.#below = below;
    this.#file = file;
    this.#wildness = below(3) === 0 ? 0 : 1 + below(200);
    const wild = BigInt(below(2 ** 32));
    this.#protocol = below(2) === 0 ? ALL : (ALL & wild) | PROTOCOL.replyAck;
    const into = new Uint8Array(4096);
    const reader = new MessageReader();
    this.#socket = new native.FdSocket(fd, {
      ...{ ...IGNORE, into },
      onData: (sizeBytes, fds) => {
        const [first, ...others] = fds ?? [];
        closeAll(others); // of a table
        const one = first === undefined ? [] : [first];
        for (const message of reader.push(into.subarray(0, sizeBytes), one)) this.#hear(message);
      },
    });
  }

  close(): void {
    this.#socket.destroy();
    this.#requests?.destroy();
  }

  #hear(message: Message): void {
    const { request, fds } = message;
    const [fd] = fds;
    if (request === REQUEST.setBackendReqFd && fd !== undefined) this.#openRequests(fd);
    else closeAll(fds);
    const payload = this.#goodAnswer(message);
    if (payload) this.#answer(request, payload);
    if (this.#below(1000) < this.#wildness) this.#askSomething();
  }

  #goodAnswer({ request, payload, needsReply }: Message): Uint8Array | undefined {
    switch (request) {
      case REQUEST.getFeatures:
        return encodeU64(F_VERSION_1 | F_PROTOCOL_FEATURES);
      case REQUEST.getProtocolFeatures:
        return encodeU64(this.#protocol);
      case REQUEST.getQueueNum:
        return encodeU64(QUEUES);
      case REQUEST.getVringBase:
      case REQUEST.getConfig:
        return payload;
      case REQUEST.getInflightFd:
        return encodeInflight({ sizeBytes: 4096n, fileOffset: 0n }, QUEUES, 8);
      default:
        return needsReply ? encodeU64(0) : undefined;
    }
  }

  #answer(request: number, payload: Uint8Array): void {
    const good = encode(request, payload, { isReply: true });
    const fds = request === REQUEST.getInflightFd ? [this.#file] : [];
    if (this.#below(1000) >= this.#wildness) {
      const cut = this.#below(good.length);
      if (this.#below(4) > 0 || cut === 0) {
        this.#send(good, fds);
        return;
      }
      this.#send(good.subarray(0, cut), fds);
      this.#send(good.subarray(cut), []);
      return;
    }
    this.isTame = false;
    const bent = this.#bend(good);
    const isBound = this.#below(4) > 0;
    this.#send(bent, isBound ? fds : Array<number>(this.#below(4)).fill(this.#file));
    if (this.#below(8) === 0) this.#send(good, fds);
    else if (bent.length < good.length) this.#socket.end(); // else both would wait for the rest
  }

  /** A byte changed, a part cut off or put behind; or something else altogether. */
  #bend(good: Uint8Array): Uint8Array {
    const below = this.#below;
    const bytes = Buffer.from(good);
    const bends: (() => Uint8Array)[] = [
      () => bytes.fill(below(256), below(bytes.length)),
      () => bytes.fill(below(256), HEADER_BYTES + below(bytes.length - HEADER_BYTES)),
      () => bytes.fill(below(256), 4 * below(3), 13).fill(below(2) * 255, 13),
      () => bytes.map((byte) => (below(bytes.length) === 0 ? below(256) : byte)),
      () => bytes.subarray(0, below(bytes.length)),
      () => Buffer.concat([bytes, bytes.subarray(0, below(bytes.length))]),
      () => encode(below(40), bytes.subarray(HEADER_BYTES), { isReply: below(2) === 0 }),
      () => encode(bytes.readUInt32LE(0), this.#bytes(below(300)), { isReply: true }),
      () => this.#bytes(1 + below(600)),
    ];
    return bends[below(bends.length)]?.() ?? bytes;
  }

  #bytes(count: number): Uint8Array {
    return Uint8Array.from({ length: count }, () => this.#below(256));
  }

  #send(bytes: Uint8Array, fds: readonly number[]): void {
    if (fds.length > 0) this.#socket.sendFds(bytes, fds);
    else this.#socket.write(bytes);
  }

  /** Of whatever it may ask: where, what of which file, and how much of it. */
  #askSomething(): void {
    const below = this.#below;
    const fields = Array.from({ length: [0, 5, 32, below(40)][below(4)] ?? 0 }, () =>
      encodeU64(4096 * below(3) + below(8) * (below(2) === 0 ? MIB : below(2))),
    );
    const own = OWN_REQUESTS[below(OWN_REQUESTS.length)] ?? 0;
    const request = below(9) === 0 ? below(64) : own;
    const payload = Buffer.concat(fields).subarray(0, 256);
    const message = encode(request, payload, { needsReply: true });
    const fds = Array<number>(below(3)).fill(this.#file);
    this.isTame &&= request === BACKEND_REQUEST.configChanged && fds.length < 2;
    if (fds.length > 0) this.#requests?.sendFds(message, fds);
    else this.#requests?.write(message);
  }

  #openRequests(fd: number): void {
    const into = new Uint8Array(1024);
    const reader = new MessageReader();
    const onData = (sizeBytes: number) => {
      for (const { payload } of reader.push(into.subarray(0, sizeBytes))) {
        check(payload.length === 8 && (payload[0] ?? 2) < 2, 'An answer that is neither 0 nor 1');
        this.answeredCount++;
      }
    };
    this.#requests = new native.FdSocket(fd, { ...IGNORE, into, onData });
  }
}

/** What a device does with its backend, from the boot to the end. */
async function live(frontend: Frontend, file: number): Promise<void> {
  check(frontend.queuesMax <= 256, `${frontend.queuesMax} queues`);
  check((frontend.features & F_PROTOCOL_FEATURES) === 0n, 'A feature of the protocol is shown');
  const config = await frontend.config(CONFIG_BYTES);
  check((config?.length ?? CONFIG_BYTES) === CONFIG_BYTES, `${config?.length} bytes of config`);
  if (frontend.hasConfig) await frontend.setConfig(32, Uint8Array.of(1));
  const ram = { gpa: 0, sizeBytes: MIB, readonly: false, fileOffset: 0, fd: file };
  await frontend.begin(F_VERSION_1, [ram]);
  await frontend.setMtu(1500);
  if (frontend.hasInflight) {
    const note = await frontend.inflightNote(QUEUES, 8);
    await frontend.setInflight(note).finally(() => closeSync(note.fd));
  }
  const rings = { size: 8, descGpa: 0, availGpa: 4096, usedGpa: 8192 };
  const queue = { ...rings, irqFd: file, kickFd: file, kick: ignore, interrupt: ignore };
  for (let n = 0; n < QUEUES; n++)
    await frontend.startQueue(n, { ...queue, close: ignore }, 0, n === 0);
  await frontend.settle();
  await frontend.enableQueue(1, true);
  for (let n = 0; n < QUEUES; n++) {
    const base = await frontend.stopQueue(n);
    check(base >= 0 && base <= 0xffff, `A queue stopped at ${base}`);
  }
}

/** True if it was served to the end. */
async function runCase(
  file: number,
  below: Below,
): Promise<{ isTame: boolean; isServed: boolean }> {
  const [ours, theirs] = native.unixStreams.pair();
  const backend = new FuzzedBackend(theirs, file, below);
  const sharedMemory = below(2) === 0 ? undefined : new SharedMemory(WINDOW_BYTES);
  let lostCount = 0;
  const options = { sharedMemory, onConfigChanged: ignore, onLost: () => void lostCount++ };
  let frontend: Frontend | undefined;
  let isServed = false;
  try {
    frontend = await Frontend.open(ours, options);
    await live(frontend, file);
    isServed = true;
  } catch (cause) {
    if (cause instanceof BrokenRuleError) throw cause;
    if (backend.isTame) throw new Error('A backend that says nothing wrong is refused', { cause });
    const isOver = frontend?.settle().then(
      () => false,
      () => true,
    );
    check((await isOver) ?? true, 'The connection goes on after a rejection');
  } finally {
    check(lostCount <= 1, `Lost ${lostCount} times`);
    frontend?.close();
    backend.close();
    await sharedMemory?.clear();
    sharedMemory?.close();
  }
  return { isTame: backend.isTame, isServed };
}

const openCount = (): number => readdirSync('/proc/self/fd').length;

/** Some ends are only seen in the next turn of the loop. */
async function closed(expected: number): Promise<boolean> {
  for (let turns = 0; turns < 50; turns++, await tick()) if (openCount() <= expected) return true;
  return false;
}

export interface Outcome {
  /** How many backends that said something wrong were given up, and how many went on. */
  refused: number;
  survived: number;
  tame: number;
}

/** Runs cases for `seconds`. @throws Error with the number of the case that breaks a rule. */
export async function explore(seconds: number, seed: number): Promise<Outcome> {
  const outcome: Outcome = { refused: 0, survived: 0, tame: 0 };
  const path = join(tmpdir(), `vhost-user-fuzz-${process.pid}`);
  const file = openSync(path, 'w+');
  unlinkSync(path);
  const openBefore = openCount();
  const end = performance.now() + 1000 * seconds;
  for (let runs = 0; performance.now() < end; runs++) {
    try {
      const { isTame, isServed } = await runCase(file, random(seed + runs));
      check(await closed(openBefore), `${openCount() - openBefore} descriptors stay open`);
      outcome[isTame ? 'tame' : isServed ? 'survived' : 'refused']++;
    } catch (cause) {
      throw new Error(`Case ${seed + runs}`, { cause });
    }
  }
  closeSync(file);
  return outcome;
}
