/**
 * Fuzzes the registers of a virtio PCI function: common configuration, MSI-X, BAR and command.
 *
 * A case is what a driver does, mostly in the right order. Whatever it does, no read gives more
 * than its width, nothing that was frozen changes, the device is started only with what was offered
 * and once a life, the kernel has the kicks of a BAR that answers and no others, and a vector is
 * heard exactly where the guest has unmasked it. The corpus keeps one case for each different
 * outcome, so replaying it walks every state that was ever reached.
 */
import { existsSync, readFileSync, writeFileSync } from 'node:fs';
import { allOnes, hex } from '../../src/bytes.ts';
import type { Activation } from '../../src/devices/virtio/device.ts';
import { F_VERSION_1 } from '../../src/devices/virtio/device.ts';
import {
  DRIVER_OK,
  Driver,
  MSIX_TABLE,
  NEEDS_RESET,
  NOTIFY,
  REGISTERS,
} from '../unit/support/driver.ts';
import { Echo } from '../unit/support/echo.ts';
import { random } from './random.ts';

/** A write or read of the BAR, a write of configuration space, or a turn of the event loop. */
type Verb = 'w' | 'r' | 'c' | 't' | 'break' | 'change';
interface Step {
  verb: Verb;
  at: number;
  sizeBytes: number;
  value: number;
}

const CORPUS = new URL('./corpus/virtio-pci.json', import.meta.url);
const QUEUE_SIZES = [256, 64, 1];
const MSIX_CONTROL = 0x9a;
const COMMAND = 0x04;
const STEPS_MAX = 80;
const TURN: Step = { verb: 't', at: 0, sizeBytes: 0, value: 0 };

const encode = (steps: readonly Step[]): string =>
  steps
    .map(({ verb, ...rest }) => [verb, ...Object.values(rest).map((n) => n.toString(16))].join(':'))
    .join(' ');

function decode(text: string): Step[] {
  return text.split(' ').map((word) => {
    const [verb = 't', ...numbers] = word.split(':');
    const [at = 0, sizeBytes = 0, value = 0] = numbers.map((n) => Number.parseInt(n, 16));
    return { verb: verb as Verb, at, sizeBytes, value };
  });
}

/** Checks what it is told; a reset of it takes until the next turn of the event loop. */
class Watched extends Echo {
  #isActive = false;
  #finishReset = () => {};

  override activate(activation: Activation): void {
    check(!this.#isActive, 'Started twice');
    check((activation.features & ~this.features) === 0n, 'Features beyond the offer');
    this.#isActive = true;
    super.activate(activation);
  }

  override reset(): Promise<void> {
    this.#isActive = false;
    this.resetDone = new Promise((resolve) => {
      this.#finishReset = resolve;
    });
    return super.reset();
  }

  finishReset(): void {
    this.#finishReset();
  }
}

function check(holds: boolean, message: string): asserts holds {
  if (!holds) throw new Error(message);
}

class Case {
  readonly outcomes = new Set<string>();
  readonly #device = new Watched({ queueSizes: QUEUE_SIZES });
  readonly #driver = new Driver(this.#device);
  #resetAsked = false;
  #status = 0;
  #frozen: string | undefined;

  async run(step: Step): Promise<void> {
    const { pci } = this.#driver;
    const { verb, at, sizeBytes, value } = step;
    if (verb === 't') {
      this.#device.finishReset();
      await new Promise((resolve) => setImmediate(resolve));
    }
    if (verb === 'c') this.#driver.config(at, sizeBytes, value);
    if (verb === 'break') this.#driver.built[at]?.breakDown('fuzzed');
    if (verb === 'change') this.#device.activation?.configChanged();
    if (verb === 'w') {
      this.#resetAsked ||= at === REGISTERS.status[0] && sizeBytes === 1 && value === 0;
      pci.write(at, sizeBytes, value);
    }
    if (verb === 'r') {
      const read = pci.read(at, sizeBytes);
      check(Number.isInteger(read) && read >= 0 && read <= allOnes(sizeBytes), `Read ${read}`);
    }
    this.#checkStatus();
    this.#checkFrozen();
    this.#checkKicks();
    this.#checkVectors();
  }

  #register(name: keyof typeof REGISTERS): number {
    return this.#driver.pci.read(...(REGISTERS[name] as unknown as [number, number]));
  }

  #checkStatus(): void {
    const now = this.#register('status');
    const kept = (now & this.#status) === this.#status;
    check(kept || (this.#resetAsked && now === 0), `Status ${this.#status} became ${now}`);
    if (now === 0) this.#resetAsked = false;
    this.#status = now;
    this.outcomes.add(`status ${hex(now)}${this.#resetAsked ? ', resetting' : ''}`);
    if ((now & NEEDS_RESET) !== 0) check(this.#driver.warnings.length > 0, 'No reason was told');
  }

  /** All that may no longer change once DRIVER_OK is set. */
  #checkFrozen(): void {
    if ((this.#status & DRIVER_OK) === 0) {
      this.#frozen = undefined;
      return;
    }
    const now = JSON.stringify(this.#setUp());
    if (this.#frozen === undefined) this.#onStarted();
    else check(now === this.#frozen, `${this.#frozen} became ${now}`);
    this.#frozen = now;
  }

  #onStarted(): void {
    const { activation } = this.#device;
    check(activation !== undefined, 'DRIVER_OK without a start');
    const enabled = activation.queues.map((queue) => (queue ? 1 : 0));
    this.outcomes.add(`started with queues ${enabled.join('')}`);
    for (const queue of this.#driver.built.slice(-enabled.filter(Boolean).length)) {
      const { size, descGpa, availGpa, usedGpa } = queue.options;
      check(size > 0 && (size & (size - 1)) === 0 && size <= 256, `Queue of ${size}`);
      for (const gpa of [descGpa, availGpa, usedGpa])
        check(Number.isSafeInteger(gpa) && gpa <= 2 ** 52, `Queue at ${gpa}`);
    }
  }

  /** Read while a reset is under way, too: then the selectors stay where they are. */
  #setUp(): unknown {
    if (this.#resetAsked) return JSON.parse(this.#frozen ?? 'null');
    const { pci } = this.#driver;
    const [queueSelect, featureSelect] = [
      this.#register('queueSelect'),
      this.#register('driverFeatureSelect'),
    ];
    const queues = QUEUE_SIZES.map((_, queue) => {
      pci.write(22, 2, queue);
      return [24, 26, 28]
        .map((at) => pci.read(at, 2))
        .concat([32, 36, 40, 44, 48, 52].map((at) => pci.read(at, 4)));
    });
    const features = [0, 1].map((word) => {
      pci.write(8, 4, word);
      return pci.read(12, 4);
    });
    check(((BigInt(features[1] ?? 0) << 32n) & F_VERSION_1) !== 0n, 'A legacy driver was let in');
    pci.write(22, 2, queueSelect);
    pci.write(8, 4, featureSelect);
    return { queues, features, vector: this.#register('configVector') };
  }

  #checkKicks(): void {
    const { kicks, claims } = this.#driver.vm;
    check(claims.length <= 1, 'Claimed twice');
    const [claim] = claims;
    const expected = claim ? QUEUE_SIZES.map((_, n) => claim.base + NOTIFY + 4 * n) : [];
    check([...kicks.keys()].join() === expected.join(), `Kicks at ${[...kicks.keys()]}`);
    this.outcomes.add(claim ? 'the BAR answers' : 'the BAR answers nowhere');
  }

  #checkVectors(): void {
    const { pci, vm } = this.#driver;
    const control = pci.space.read(MSIX_CONTROL, 2) >>> 14;
    let heard = 0;
    for (const [vector, { calls }] of vm.msis.entries()) {
      const last = calls.findLast((call) => call === 'mask' || call === 'unmask');
      const entry = MSIX_TABLE + 16 * vector;
      const isOpen = control === 2 && pci.read(entry + 12, 4) === 0;
      check(isOpen === (last === 'unmask'), `Vector ${vector} is ${last}`);
      if (isOpen) heard++;
    }
    this.outcomes.add(`${heard} vectors heard`);
  }
}

/** Runs a case and returns its outcomes, each with how many steps it took. */
async function run(steps: readonly Step[]): Promise<Map<string, number>> {
  const one = new Case();
  const outcomes = new Map<string, number>();
  for (const [i, step] of steps.entries()) {
    try {
      await one.run(step);
    } catch (cause) {
      throw new Error(`Step ${i} of ${encode(steps)}`, { cause });
    }
    for (const outcome of one.outcomes) if (!outcomes.has(outcome)) outcomes.set(outcome, i + 1);
  }
  return outcomes;
}

const write = (at: number, sizeBytes: number, value: number): Step => ({
  ...{ verb: 'w', at, sizeBytes, value },
});
const set = (name: keyof typeof REGISTERS, value: number): Step =>
  write(REGISTERS[name][0], REGISTERS[name][1], value);

/** What a good driver does, from reset to DRIVER_OK and a little beyond. */
function goodDriver(below: (n: number) => number): Step[] {
  const queue = (n: number) => [
    set('queueSelect', n),
    set('queueSize', 1 << below(10)),
    set('queueVector', n + 1),
    set('queueDescLow', 0x1000 * below(0x1000)),
    set('queueAvailHigh', below(2) ? 0 : 2 ** below(32)),
    set('queueUsedLow', 0x1000 * below(0x1000)),
    set('queueEnable', 1),
  ];
  const entry = (vector: number) =>
    [0xfee0_0000, 0, 0x4000 + vector, 0].map((value, word) =>
      write(MSIX_TABLE + 16 * vector + 4 * word, 4, value),
    );
  return [
    ...[set('status', 0), TURN, set('status', 1), set('status', 3)],
    ...[set('driverFeatureSelect', 0), set('driverFeature', [0, 0x20, 0x3000_0020][below(3)] ?? 0)],
    ...[set('driverFeatureSelect', 1), set('driverFeature', 1), set('status', 0xb)],
    { verb: 'c', at: MSIX_CONTROL, sizeBytes: 2, value: 0xc000 },
    ...[0, 1, 2, 3].flatMap(entry),
    { verb: 'c', at: MSIX_CONTROL, sizeBytes: 2, value: 0x8000 },
    set('configVector', 0),
    ...QUEUE_SIZES.flatMap((_, n) => (below(4) ? queue(n) : [])),
    set('status', 0xf),
    write(NOTIFY, 2, 0),
    { verb: 'r', at: 0x2000, sizeBytes: 1, value: 0 },
  ];
}

function anyStep(below: (n: number) => number): Step {
  const places = [...Object.values(REGISTERS).map(([at]) => at), 0x2000, 0x4000, NOTIFY];
  const at =
    [
      () => places[below(places.length)] ?? 0,
      () => below(64),
      () => MSIX_TABLE + 4 * below(20),
      () => below(0x8_0000),
    ][below(4)]?.() ?? 0;
  const sizeBytes = [1, 2, 4, 4, 2, 1, 3, 8][below(8)] ?? 1;
  const value =
    [0, 1, 2, 0xf, 0xffff, below(0x100), below(0x1_0000), below(2 ** 32)][below(8)] ?? 0;
  const fitting = value % 2 ** (8 * Math.min(sizeBytes, 4));
  const config = [COMMAND, 0x10, 0x14, MSIX_CONTROL, 0x88, 0x8c, 0x90, 0x94][below(8)] ?? 0;
  const steps: Step[] = [
    write(at, sizeBytes, fitting),
    { verb: 'r', at, sizeBytes, value: 0 },
    { verb: 'c', at: config, sizeBytes: config === MSIX_CONTROL ? 2 : 4, value },
    { verb: 'c', at: COMMAND, sizeBytes: 2, value: below(2) ? 6 : 0 },
    set('status', below(3) ? below(0x100) : 0),
    TURN,
    { verb: 'break', at: below(6), sizeBytes: 0, value: 0 },
    { verb: 'change', at: 0, sizeBytes: 0, value: 0 },
  ];
  return steps[below(steps.length)] ?? TURN;
}

/** A good driver that leaves steps out, and does others in between. */
function someCase(seed: number): Step[] {
  const below = random(seed);
  const wildness = 2 + below(30);
  const steps = Array.from({ length: 1 + below(2) }, () => goodDriver(below)).flat();
  const mixed = steps.flatMap((step) => {
    const dice = below(wildness);
    if (dice === 0) return [];
    return dice === 1 ? [anyStep(below), step] : [step];
  });
  const tail = Array.from({ length: below(20) }, () => anyStep(below));
  return [...mixed.slice(0, STEPS_MAX), ...tail];
}

const readCorpus = (): Record<string, string> =>
  existsSync(CORPUS) ? (JSON.parse(readFileSync(CORPUS, 'utf8')) as Record<string, string>) : {};

/** Runs the corpus. Returns the outcomes that are not reached any more. */
export async function replay(): Promise<string[]> {
  const lost: string[] = [];
  for (const [outcome, steps] of Object.entries(readCorpus()))
    if (!(await run(decode(steps))).has(outcome)) lost.push(outcome);
  return lost;
}

/** Runs new cases for `seconds`. Returns how many; with `keep`, new outcomes go to the corpus. */
export async function explore(seconds: number, seed: number, keep: boolean): Promise<number> {
  const corpus = readCorpus();
  let runs = 0;
  for (const end = performance.now() + 1000 * seconds; performance.now() < end; runs++) {
    const steps = someCase(seed + runs);
    for (const [outcome, length] of await run(steps))
      corpus[outcome] ??= encode(steps.slice(0, length));
  }
  const sorted = Object.fromEntries(Object.entries(corpus).sort(([a], [b]) => a.localeCompare(b)));
  if (keep) writeFileSync(CORPUS, `${JSON.stringify(sorted, null, 1)}\n`);
  return runs;
}
