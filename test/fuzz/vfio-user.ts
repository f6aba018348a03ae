/**
 * Fuzzes what a server of vfio-user says: answers that are mostly good, and now and then cut, bent,
 * doubled, of another command, with descriptors too many or too few.
 *
 * Whatever it says, what is known of its device lies within its limits, each register is read as a
 * number of its width, nothing rejects that must not, a loss is told at most once, and no
 * descriptor stays open. A server that says nothing wrong is served to the end.
 */
import { closeSync, ftruncateSync, mkdtempSync, openSync, readdirSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setImmediate as tick } from 'node:timers/promises';
import { allOnes } from '../../src/bytes.ts';
import { UserBackend } from '../../src/devices/vfio-user/backend.ts';
import { native } from '../../src/native.ts';
import { VFIO } from '../../src/native-vfio.ts';
import {
  forRegion,
  REGION_MMAP,
  regionInfo,
  ScriptedServer,
} from '../unit/support/scripted-server.ts';
import { random } from './random.ts';

type Below = (n: number) => number;

const HEADER_BYTES = 16;
const BAR_BYTES = 0x8000;
const PAGE_BYTES = 4096;
/** After something odd the server hangs up, or each side would wait for the other. */
const HANG_UP_MS = 5;

/** A rule is broken: by us, and not by the server. */
class BrokenRuleError extends Error {}

function check(holds: boolean, message: string): asserts holds {
  if (!holds) throw new BrokenRuleError(message);
}

/** A byte changed, a part cut off or put behind; or something else altogether. */
function bend(good: Uint8Array, below: Below): Uint8Array {
  const bytes = Buffer.from(good);
  const field = 4 * below(bytes.length >> 2);
  const after = (count: number) => Math.min(field + count, bytes.length);
  const bends: (() => Uint8Array)[] = [
    () => bytes.fill(below(256), below(bytes.length)),
    () => bytes.fill(below(2) * 255, field, after(4)),
    () => bytes.fill(below(2) * 255, field, after(8)),
    () => bytes.map((byte) => (below(bytes.length) === 0 ? below(256) : byte)),
    () => bytes.subarray(0, below(bytes.length)),
    () => Buffer.concat([bytes, bytes]),
    () => bytes.fill(below(20), 2, 3),
    () => bytes.fill(below(64), 8, 9),
    () => Buffer.concat([bytes.subarray(0, HEADER_BYTES), Buffer.alloc(below(64), below(256))]),
    () => Buffer.from(Uint8Array.from({ length: 1 + below(600) }, () => below(256))),
  ];
  return bends[below(bends.length)]?.() ?? bytes;
}

/** Often one that is none. */
const anArea = (below: Below): number[] => {
  const unit = [1, 0x800, PAGE_BYTES][below(3)] ?? 1;
  return [unit * below(10), unit * below(10)];
};

class FuzzedServer {
  isTame = true;
  /** The guest has the device: some servers behave until then. */
  isLive = false;
  readonly server: ScriptedServer;

  constructor(path: string, file: number, below: Below) {
    const wildness = below(3) === 0 ? 0 : 1 + below(100);
    const isLate = below(2) === 0;
    const isOdd = wildness > 0 && below(4) === 0;
    const areas = isOdd ? [anArea(below), anArea(below)] : [[0x2000, 0x1000 * (1 + below(4))]];
    this.isTame = !isOdd;
    const payload = regionInfo(0, BAR_BYTES, { flags: 3 | REGION_MMAP, areas });
    this.server = new ScriptedServer({
      ...{ path, barBytes: [BAR_BYTES], irqCounts: [below(2), below(33), below(2049)] },
      script: { getRegionInfo: forRegion(0, () => ({ payload, fds: [file] })) },
      bend: (bytes, fds) => {
        const isGood = (isLate && !this.isLive) || below(1000) >= wildness;
        if (isGood) return { raw: bytes, fds };
        this.isTame = false;
        setTimeout(() => this.server.hangUp(), HANG_UP_MS);
        const others = below(4) > 0 ? fds : Array<number>(below(4)).fill(file);
        return { raw: bend(bytes, below), fds: others };
      },
    });
  }
}

function checkFacts({ regions, irqCounts }: UserBackend): void {
  for (const { sizeBytes, fileOffset, areas } of regions) {
    check(areas.length <= 16 && sizeBytes >= 0, `${areas.length} areas of ${sizeBytes} bytes`);
    check(Number.isSafeInteger(fileOffset), `A file offset of ${fileOffset}`);
    for (const [i, area] of areas.entries()) {
      const end = area.offset + area.sizeBytes;
      check(area.offset % PAGE_BYTES === 0 && area.sizeBytes % PAGE_BYTES === 0, 'Part of a page');
      check(area.sizeBytes > 0 && end <= sizeBytes, `An area up to ${end} of ${sizeBytes}`);
      const others = areas.slice(0, i);
      check(
        others.every(
          (other) => other.offset + other.sizeBytes <= area.offset || end <= other.offset,
        ),
        'Areas over each other',
      );
    }
  }
  const limits = [1, 32, 2048];
  for (const [i, count] of irqCounts.entries())
    check(count >= 0 && count <= (limits[i] ?? 0), `${count} interrupts of kind ${i}`);
}

/** What a guest does with it. */
async function live(backend: UserBackend, below: Below): Promise<void> {
  const config = await backend.readConfig();
  check(config.length === 256 || config.length === 4096, `${config.length} bytes of config`);
  for (let round = 0; round < 10; round++) {
    const sizeBytes = [1, 2, 4][below(3)] ?? 1;
    const region = below(2) === 0 ? 0 : VFIO.configRegion;
    const reads = Array.from({ length: 1 + below(8) }, () =>
      backend.read(region, 4 * below(32), sizeBytes),
    );
    await backend.write(region, 0x60, sizeBytes, below(2 ** 32));
    for (const value of await Promise.all(reads))
      check(Number.isInteger(value) && value >= 0 && value <= allOnes(sizeBytes), `Read ${value}`);
  }
  const events = Array.from({ length: below(5) }, () => new native.EventFd());
  backend.setIrqs(VFIO.msix, events);
  await backend.settled();
  for (const event of events) event.close();
  await backend.memoryChanged();
}

/** True if it was served to the end. */
async function runCase(folder: string, file: number, below: Below) {
  const path = join(folder, 'socket');
  const fuzzed = new FuzzedServer(path, file, below);
  let lostCount = 0;
  const region = { gpa: 0, sizeBytes: BAR_BYTES, readonly: false, fileOffset: 0, fd: file };
  const regions = Array.from({ length: below(3) }, (_, i) => ({ ...region, gpa: BAR_BYTES * i }));
  let isServed = false;
  try {
    const backend = await UserBackend.open(native.unixStreams.connect(path), {
      ...{ memory: { regions: () => regions }, guest: { mapFile: () => 0 }, onWarning: () => {} },
      onLost: () => void lostCount++,
    });
    try {
      fuzzed.isLive = true;
      checkFacts(backend);
      await live(backend, below);
      isServed = lostCount === 0;
    } finally {
      await backend.close();
    }
  } catch (cause) {
    if (cause instanceof BrokenRuleError) throw cause;
    if (fuzzed.isLive) throw new Error('What must not reject does', { cause });
    if (fuzzed.isTame) throw new Error('A server that says nothing wrong is refused', { cause });
  } finally {
    check(lostCount <= 1, `Lost ${lostCount} times`);
    fuzzed.server.die();
  }
  check(isServed || !fuzzed.isTame, 'A server that says nothing wrong is lost');
  return { isTame: fuzzed.isTame, isServed };
}

const openCount = (): number => readdirSync('/proc/self/fd').length;

/** Some ends are only seen in the next turn of the loop. */
async function closed(expected: number): Promise<boolean> {
  for (let turns = 0; turns < 50; turns++, await tick()) if (openCount() <= expected) return true;
  return false;
}

export interface Outcome {
  /** Servers that said nothing wrong; that did, and were served all the same; that were refused. */
  tame: number;
  survived: number;
  refused: number;
}

/** @throws Error with the case's seed if a rule is broken. */
export async function explore(seconds: number, seed: number): Promise<Outcome> {
  const folder = mkdtempSync(join(tmpdir(), 'fuzz-vfio-user-'));
  const file = openSync(join(folder, 'file'), 'w+');
  ftruncateSync(file, BAR_BYTES);
  const outcome: Outcome = { tame: 0, survived: 0, refused: 0 };
  const end = Date.now() + 1000 * seconds;
  try {
    for (let n = 0; n < 40 || Date.now() < end; n++) {
      const before = openCount();
      try {
        const { isTame, isServed } = await runCase(folder, file, random(seed + n));
        check(await closed(before), `${openCount() - before} descriptors stay open`);
        outcome[isTame ? 'tame' : isServed ? 'survived' : 'refused']++;
      } catch (cause) {
        throw new Error(`Case with seed ${seed + n}: ${(cause as Error).message}`, { cause });
      }
    }
    return outcome;
  } finally {
    closeSync(file);
    rmSync(folder, { recursive: true });
  }
}
