import { execFileSync } from 'node:child_process';
import {
  closeSync,
  constants,
  mkdtempSync,
  openSync,
  readdirSync,
  rmSync,
  writeFileSync,
  writeSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import fc from 'fast-check';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { Rng } from '../../../../src/devices/virtio/rng.ts';
import { errorChain } from '../../../../src/errors.ts';
import { Driver, NOTHING } from '../../support/driver.ts';

const REQUEST_BYTES_MAX = 64 * 1024;

let folder: string;
let warnings: string[];
let drivers: Driver[];

beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'rng-'));
  warnings = [];
  drivers = [];
});

afterEach(async () => {
  for (const { pci } of drivers) await pci[Symbol.asyncDispose]();
  rmSync(folder, { recursive: true });
});

function rngOf(src: string): Rng {
  const mine = warnings; // a read may end after its test
  return new Rng({ src }, { onWarning: (text) => mine.push(text) });
}

function start(rng: Rng): Driver {
  const driver = new Driver(rng);
  drivers.push(driver);
  driver.start();
  return driver;
}

/** Longer than any read of a source that has nothing: it is waited for that nothing happens. */
const aWhile = () => new Promise((resolve) => setTimeout(resolve, 50));

const turns = async (count = 20): Promise<void> => {
  for (let i = 0; i < count; i++) await new Promise((resolve) => setImmediate(resolve));
};

/** A character device that never has anything: the master of a pty that nobody uses. */
const SILENT = '/dev/ptmx';

/** Unlocks the slave of the pty at stdin, and says its path. */
const UNLOCK = `
import fcntl, struct
fcntl.ioctl(0, 0x40045431, struct.pack('i', 0))
print('/dev/pts/%d' % struct.unpack('i', fcntl.ioctl(0, 0x80045430, bytes(4))), end='')
`;

/** One that has bytes when somebody types: the slave of a pty. */
class TypedSource implements Disposable {
  readonly path: string;
  readonly #master = openSync('/dev/ptmx', constants.O_RDWR | constants.O_NOCTTY);
  readonly #slave: number;

  constructor() {
    this.path = execFileSync('/usr/bin/python3', ['-c', UNLOCK], {
      stdio: [this.#master, 'pipe', 'inherit'],
      encoding: 'utf8',
    });
    this.#slave = openSync(this.path, constants.O_RDWR | constants.O_NOCTTY);
    execFileSync('stty', ['-F', this.path, 'raw', '-echo']);
  }

  type(bytes: Uint8Array): void {
    writeSync(this.#master, bytes);
  }

  [Symbol.dispose](): void {
    closeSync(this.#slave);
    closeSync(this.#master);
  }
}

test('a request is filled with bytes of the source', async () => {
  const source = join(folder, 'source');
  const bytes = Uint8Array.from({ length: 1000 }, (_, i) => i);
  writeFileSync(source, bytes);
  const driver = start(rngOf(source));

  const first = await driver.request(0, NOTHING, 16);
  const second = await driver.request(0, NOTHING, 300);

  expect(first).toEqual(bytes.subarray(0, 16));
  expect(second).toEqual(bytes.subarray(16, 316));
});

test('a request of any size is completed once, with at most 64 KiB', async () => {
  const driver = start(rngOf('/dev/urandom'));

  await fc.assert(
    fc.asyncProperty(fc.oneof(fc.nat(200), fc.nat(1 << 20)), async (writableBytes) => {
      const chain = driver.offer(0, NOTHING, writableBytes);
      driver.kick(0);
      expect(await chain.done).toHaveLength(Math.min(writableBytes, REQUEST_BYTES_MAX));
      expect(chain.completeCount).toBe(1);
    }),
  );
});

test('requests that come at once are all answered, one at a time', async () => {
  const driver = start(rngOf('/dev/urandom'));

  const answers = Array.from({ length: 256 }, () => driver.request(0, NOTHING, 100));

  const counts = new Set<number>();
  while (driver.queue(0).waitingCount > 0) {
    counts.add(driver.queue(0).outCount);
    await turns(1);
  }
  expect(Math.max(...counts)).toBe(1);
  for (const bytes of await Promise.all(answers)) expect(bytes).toHaveLength(100);
});

test('a silent source keeps neither a pause nor a reset waiting; no request goes back empty', async () => {
  const rng = rngOf(SILENT);
  const driver = start(rng);
  const queue = driver.queue(0);
  const chain = driver.offer(0, NOTHING, 16);
  driver.kick(0);
  await aWhile();

  await driver.pci.pause();
  driver.pci.resume();
  await aWhile();
  const waitingCount = queue.waitingCount;
  await driver.reset();
  await driver.pci[Symbol.asyncDispose]();

  expect(chain.completeCount).toBe(0);
  expect(waitingCount).toBe(1);
});

test('a source that has nothing now is asked again', async () => {
  using source = new TypedSource();
  const driver = start(rngOf(source.path));
  const answer = driver.request(0, NOTHING, 16);
  await aWhile();

  source.type(Uint8Array.of(7, 8, 9));

  expect(await answer).toEqual(Uint8Array.of(7, 8, 9));
  expect(warnings).toEqual([]);
});

test('a source that ends is told of, and its last bytes are given', async () => {
  const source = join(folder, 'source');
  writeFileSync(source, Uint8Array.of(1, 2, 3));
  const driver = start(rngOf(source));

  const bytes = await driver.request(0, NOTHING, 16);
  void driver.request(0, NOTHING, 16);
  await expect.poll(() => warnings.length).toBeGreaterThan(0);

  expect(bytes).toEqual(Uint8Array.of(1, 2, 3));
  expect(warnings[0]).toBe(`The entropy source ${source} is at its end`);
  expect(driver.queue(0).waitingCount).toBe(1);
});

test('after a reset no request of before is answered, and the next driver is served', async () => {
  const driver = start(rngOf('/dev/urandom'));
  const before = driver.offer(0, NOTHING, 1000);
  driver.kick(0);

  await driver.reset();
  driver.start();
  const bytes = await driver.request(0, NOTHING, 1000);
  await turns();

  expect(bytes).toHaveLength(1000);
  expect(before.completeCount).toBe(0);
});

test('a look at a source leaves nothing open', () => {
  const opened = () => readdirSync('/proc/self/fd').length;
  const before = opened();

  Rng.check({ src: '/dev/urandom' });

  expect(opened()).toBe(before);
});

test('nothing of it stays open, whatever it was doing', async () => {
  const opened = () => readdirSync('/proc/self/fd').length;
  const before = opened();
  const rng = rngOf('/dev/urandom');
  void start(rng).request(0, NOTHING, 1000);
  await turns(1);

  await rng[Symbol.asyncDispose]();
  await rng[Symbol.asyncDispose]();

  await expect.poll(opened).toBe(before);
});

const UNUSABLE = {
  'that is missing': {
    put: () => {},
    text: 'No such file or directory (os error 2)',
  },
  'that is a directory': { put: (path: string) => execFileSync('mkdir', [path]), text: undefined },
  'that is a FIFO which never gives': {
    put: (path: string) => execFileSync('mkfifo', [path]),
    text: undefined,
  },
  'that is a socket': {
    put: (path: string) =>
      execFileSync('/usr/bin/python3', [
        '-c',
        'import socket,sys;socket.socket(socket.AF_UNIX).bind(sys.argv[1])',
        path,
      ]),
    text: 'No such device or address (os error 6)',
  },
};

test.each(Object.entries(UNUSABLE))('a source %s is refused at once', (_name, { put, text }) => {
  const src = join(folder, 'source');
  put(src);
  const opened = readdirSync('/proc/self/fd').length;

  for (const make of [() => rngOf(src), () => Rng.check({ src })]) {
    let error: unknown;
    try {
      make();
    } catch (thrown) {
      error = thrown;
    }
    expect(errorChain(error)).toEqual([
      'Error from device manager',
      'Cannot create virtio-rng device',
      text ?? 'Not a character device or file',
      `rng.src is ${src}: name a character device or a file that can be read`,
    ]);
  }
  expect(readdirSync('/proc/self/fd').length).toBe(opened);
});
