/**
 * Fuzzes the kernel loaders, from opening the file to the whole boot plan.
 *
 * A case is a kernel that is valid but for a few fields, bytes or its length, and a VM to boot it
 * in. The corpus keeps one case for each different outcome (a refusal's text without its numbers),
 * so replaying it walks every branch that was ever reached.
 */
import {
  closeSync,
  existsSync,
  ftruncateSync,
  mkdtempSync,
  openSync,
  readFileSync,
  rmSync,
  writeFileSync,
  writeSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createContext, Script } from 'node:vm';
import { deflateRawSync, inflateRawSync } from 'node:zlib';
import { GIB, hex, KIB, MIB, Writer } from '../../src/bytes.ts';
import { VmmError } from '../../src/errors.ts';
import type { Blob, BootPlan } from '../../src/native-boot.ts';
import { ImageFile, type Kernel } from '../../src/vmm/boot/image.ts';
import { openKernel } from '../../src/vmm/boot/kernel.ts';
import { planBoot } from '../../src/vmm/boot/plan.ts';
import { ramRegions } from '../../src/vmm/layout.ts';
import { openFiles } from '../support/fds.ts';
import {
  bzImage,
  type ElfSegment,
  elfKernel,
  HALT,
  type Note,
  notes,
  PT_NOTE,
  pvhNote,
  SETUP_FIELDS,
} from '../support/kernels.ts';

interface Case {
  image: Uint8Array;
  /** The length that the file is then cut or, by zeroes, grown to. */
  fileBytes: number;
  ramBytes: number;
  /** 0 for none. */
  initramfsBytes: number;
  cmdlineBytes: number;
}

/** What a violated invariant is reported with: enough to run it again. */
class Violation extends Error {
  constructor(message: string, from: Case, cause?: unknown) {
    super(`${message}; case ${JSON.stringify(encode(from))}`, { cause });
  }
}

type Encoded = Omit<Case, 'image'> & { image: string };
const encode = (from: Case): Encoded => ({
  ...from,
  image: deflateRawSync(from.image).toString('base64'),
});
const decode = (from: Encoded): Case => ({
  ...from,
  image: inflateRawSync(Buffer.from(from.image, 'base64')),
});

/** Each outcome with a case that has it. */
type Corpus = Record<string, Encoded>;
const CORPUS = new URL('./corpus/loader.json', import.meta.url);
const readCorpus = (): Corpus => JSON.parse(readFileSync(CORPUS, 'utf8')) as Corpus;

/** A seeded generator, xorshift32: the same seed gives the same cases. */
class Dice {
  #state: number;
  constructor(seed: number) {
    this.#state = seed || 1;
  }

  below(n: number): number {
    let x = this.#state;
    x ^= x << 13;
    x ^= x >>> 17;
    x ^= x << 5;
    this.#state = x;
    return (x >>> 0) % n;
  }

  oneIn(n: number): boolean {
    return this.below(n) === 0;
  }

  pick<T>(from: readonly [T, ...T[]]): T {
    return from[this.below(from.length)] ?? from[0];
  }
}

const EDGES = [0n, 1n, 2n, 3n, 12n, 64n, 0x1ffn, 0x1000n, 0xfffffn, 0x100000n, 0x100001n] as const;
const FAR = [31n, 32n, 40n, 52n, 53n, 63n, 64n].flatMap((n) => [
  2n ** n - 1n,
  2n ** n,
  2n ** n + 1n,
]);

/** Mostly `usual`, rarely a number that is odd for any field. */
function field(dice: Dice, usual: number, rarity: number): bigint {
  if (!dice.oneIn(rarity)) return BigInt(usual);
  const near = BigInt(usual) + BigInt(dice.below(5) - 2);
  const odd = dice.pick([...EDGES, ...FAR, near, BigInt(dice.below(2 ** 32))]);
  return BigInt.asUintN(64, odd);
}

/** A note's lengths steer the walk over them, so now and then one is odd. */
function someNotes(dice: Dice, list: Note[], align: 4 | 8): Uint8Array {
  const whole = notes(list, align);
  const bytes = new Writer(whole.length).put(0, whole);
  const words = whole.length / 4;
  if (words > 0 && dice.oneIn(8)) {
    const odd = dice.oneIn(2) ? field(dice, 4, 1) : BigInt(0xffff_ffff - dice.below(64));
    bytes.u32(4 * dice.below(words), Number(odd & 0xffff_ffffn));
  }
  return bytes.bytes;
}

function someElf(dice: Dice): Uint8Array {
  const entry = 0x10_0000 + dice.below(3) * 0x1000;
  const align = dice.pick([4, 8] as const);
  const list = Array.from(
    { length: dice.below(4) },
    (_, i): Note => ({
      name: dice.pick(['Xen\0', 'GNU\0', 'Linux\0', '']),
      type: Number(field(dice, 6 + i, 4) & 0xffff_ffffn),
      value: new Uint8Array(dice.below(20)),
    }),
  );
  if (!dice.oneIn(12)) list.push(pvhNote(field(dice, entry, 12), align));
  const load = Array.from(
    { length: 1 + dice.below(4) },
    (_, i): ElfSegment => ({
      gpa: field(dice, 0x10_0000 + i * 0x1000, 20),
      bytes: HALT,
      offset: field(dice, 64, 30),
      fileSizeBytes: field(dice, 1, 20),
      sizeBytes: field(dice, 0x1000, 20),
    }),
  );
  const note: ElfSegment = { type: PT_NOTE, gpa: 0, bytes: someNotes(dice, list, align), align };
  if (dice.oneIn(40)) note.fileSizeBytes = dice.oneIn(2) ? 256 * MIB : field(dice, 0, 1);
  return elfKernel({
    class: Number(field(dice, 2, 60) & 0xffn),
    data: Number(field(dice, 1, 60) & 0xffn),
    type: Number(field(dice, 2, 60) & 0xffffn),
    machine: Number(field(dice, 62, 60) & 0xffffn),
    programHeadersAt: field(dice, 64, 60),
    programHeaderBytes: Number(field(dice, 56, 60) & 0xffffn),
    programHeaders: Number(field(dice, load.length + 1, 40) & 0xffffn),
    segments: dice.oneIn(2) ? [...load, note] : [note, ...load],
  });
}

function someBzImage(dice: Dice): Uint8Array {
  const usual = Object.entries(SETUP_FIELDS);
  return bzImage(Object.fromEntries(usual.map(([name, value]) => [name, field(dice, value, 40)])));
}

function someCase(dice: Dice): Case {
  const image = dice.oneIn(2) ? someElf(dice) : someBzImage(dice);
  const flips = dice.oneIn(4) ? 1 + dice.below(4) : 0;
  for (let i = 0; i < flips; i++) image[dice.below(image.length)] = dice.below(256);
  const size = image.length;
  return {
    image,
    fileBytes: dice.oneIn(8) ? dice.pick([dice.below(size), size + 1, size + 64 * KIB, GIB]) : size,
    ramBytes: dice.pick([MIB, 2 * MIB, 17 * MIB, 64 * MIB, 3 * GIB, 3 * GIB + 4 * KIB, 8 * GIB]),
    initramfsBytes: dice.oneIn(2) ? 0 : dice.pick([1, 4096, 4097, 16 * MIB, GIB, 4 * GIB]),
    cmdlineBytes: dice.pick([0, 1, 2047, 2048, 65535, 65536]),
  };
}

const WATCHDOG_MS = 1000;
/** Starting the watchdog takes as long as a few cases do. */
const BATCH = 32;
/** 64 note segments of 64 KiB, and headers. */
const READ_BYTES_MAX = 64 * 64 * KIB + 16 * KIB;

/** Runs cases against files in a folder of its own, in memory where there is such a place. */
class Target implements Disposable {
  readonly #folder = mkdtempSync(join(existsSync('/dev/shm') ? '/dev/shm' : tmpdir(), 'loader-'));
  readonly #kernelPath = join(this.#folder, 'kernel');
  readonly #initramfsPath = join(this.#folder, 'initramfs');
  readonly #kernelFd = openSync(this.#kernelPath, 'w');
  readonly #initramfsFd = openSync(this.#initramfsPath, 'w');
  readonly #sandbox = createContext({ work: () => undefined });
  readonly #script = new Script('work()');
  #current: Case | undefined;

  /** Calls `work`, which runs cases; one that hangs is a Violation. */
  watched(work: () => void): void {
    this.#sandbox['work'] = work;
    try {
      // A context, for its time limit: nothing else ends a loop in this thread.
      this.#script.runInContext(this.#sandbox, { timeout: WATCHDOG_MS });
    } catch (error) {
      const hung = (error as NodeJS.ErrnoException).code === 'ERR_SCRIPT_EXECUTION_TIMEOUT';
      if (hung && this.#current) throw new Violation('It hung', this.#current);
      throw error;
    }
  }

  /** The outcome. @throws Violation if an invariant does not hold. */
  run(from: Case): string {
    this.#current = from;
    ftruncateSync(this.#kernelFd, 0);
    writeSync(this.#kernelFd, from.image, 0, from.image.length, 0);
    ftruncateSync(this.#kernelFd, from.fileBytes);
    ftruncateSync(this.#initramfsFd, from.initramfsBytes);
    const readBefore = bytesRead();
    const outcome = this.#outcome(from);
    if (bytesRead() - readBefore > READ_BYTES_MAX) throw new Violation('It read too much', from);
    return outcome;
  }

  #outcome(from: Case): string {
    try {
      return this.#load(from);
    } catch (error) {
      if (error instanceof Violation) throw error;
      if (error instanceof VmmError && error.kind === 'invalid-config')
        return this.#withoutParticulars(error.message);
      throw new Violation('It threw what is no refusal', from, error);
    }
  }

  #load(from: Case): string {
    using files = new Files();
    const kernel = files.keep(openKernel(this.#kernelPath));
    const initramfs =
      from.initramfsBytes === 0 ? undefined : new ImageFile('initramfs', this.#initramfsPath);
    if (initramfs) files.keep({ file: initramfs });
    const { ramBytes, cmdlineBytes } = from;
    const cmdline = 'x'.repeat(cmdlineBytes);
    const [tables, rsdpGpa] = [[{ gpa: 0xa_0000, bytes: new Uint8Array(64) }], 0xa_0000];
    const plan = planBoot({ kernel, initramfs, cmdline, ramBytes, tables, rsdpGpa, cpuid: [] });
    const broken = brokenRule(plan, kernel, ramBytes);
    if (broken) throw new Violation(broken, from);
    return `boots by ${kernel.protocol.name} ${initramfs ? 'with' : 'without'} an initramfs`;
  }

  #withoutParticulars(message: string): string {
    return message.replaceAll(this.#folder, '').replace(/0x[0-9a-f]+|\d+(\.\d+)?/g, '#');
  }

  /** @throws Error if a run left a file open. */
  checkClosed(): void {
    const ours = 2;
    const left = openFiles(this.#folder).slice(ours);
    if (left.length > 0) throw new Error(`Left open: ${left}`);
  }

  [Symbol.dispose](): void {
    closeSync(this.#kernelFd);
    closeSync(this.#initramfsFd);
    rmSync(this.#folder, { recursive: true });
  }
}

class Files implements Disposable {
  readonly #files: ImageFile[] = [];
  keep<T extends { file: ImageFile }>(owner: T): T {
    this.#files.push(owner.file);
    return owner;
  }
  [Symbol.dispose](): void {
    for (const file of this.#files) file.close();
  }
}

const bytesRead = (): number =>
  Number(/rchar: (\d+)/.exec(readFileSync('/proc/thread-self/io', 'latin1'))?.[1]);

const blobBytes = (blob: Blob): number => ('fd' in blob ? blob.length : blob.bytes.length);

/** Which rule a plan breaks, looked at without the loaders' own arithmetic. */
function brokenRule(
  { blobs, entry }: BootPlan,
  kernel: Kernel,
  ramBytes: number,
): string | undefined {
  const ram = ramRegions(ramBytes);
  const taken = [
    ...kernel.extents.map(({ gpa, sizeBytes }) => ({ gpa, end: gpa + sizeBytes })),
    ...blobs
      .filter((blob) => !('fd' in blob && blob.fd === kernel.file.fd))
      .map((blob) => ({ gpa: blob.gpa, end: blob.gpa + blobBytes(blob) })),
  ];
  for (const { gpa, end } of taken) {
    const inRam = ram.some((r) => gpa >= r.gpa && end <= r.gpa + r.sizeBytes);
    if (!inRam) return `${hex(gpa)} to ${hex(end)} is not RAM`;
    if (taken.filter((other) => other.gpa < end && gpa < other.end).length !== 1)
      return `Something overlaps ${hex(gpa)} to ${hex(end)}`;
  }
  for (const blob of blobs) {
    if (!('fd' in blob) || blob.fd !== kernel.file.fd) continue;
    const { gpa, offset, length } = blob;
    const home = kernel.extents.find((e) => gpa >= e.gpa && gpa + length <= e.gpa + e.sizeBytes);
    if (!home) return `A part of the kernel lies outside it at ${hex(gpa)}`;
    if (offset + length > kernel.file.sizeBytes) return 'A part of the kernel is not in its file';
  }
  const entered = kernel.extents.some((e) => entry.rip >= e.gpa && entry.rip < e.gpa + e.sizeBytes);
  return entered ? undefined : `Nothing is at the entry ${hex(entry.rip)}`;
}

/** Runs the corpus. Returns the outcomes that are no longer what they were. */
export function replay(): string[] {
  using target = new Target();
  const changed: string[] = [];
  for (const [outcome, from] of Object.entries(readCorpus())) {
    target.watched(() => {
      const now = target.run(decode(from));
      if (now !== outcome) changed.push(`${outcome} → ${now}`);
    });
  }
  target.checkClosed();
  return changed;
}

/** Runs new cases for `seconds`. Returns how many; with `keep`, new outcomes go to the corpus. */
export function explore(seconds: number, seed: number, keep: boolean): number {
  using target = new Target();
  const dice = new Dice(seed);
  const corpus = readCorpus();
  let runs = 0;
  for (const end = performance.now() + seconds * 1000; performance.now() < end; runs += BATCH) {
    target.watched(() => {
      for (let i = 0; i < BATCH; i++) {
        const from = someCase(dice);
        corpus[target.run(from)] ??= encode(from);
      }
    });
  }
  target.checkClosed();
  const sorted = Object.fromEntries(Object.entries(corpus).sort(([a], [b]) => a.localeCompare(b)));
  if (keep) writeFileSync(CORPUS, `${JSON.stringify(sorted, null, 1)}\n`);
  return runs;
}
