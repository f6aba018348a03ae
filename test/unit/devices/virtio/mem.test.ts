import fc from 'fast-check';
import { beforeEach, expect, test } from 'vitest';
import { GIB, MIB } from '../../../../src/bytes.ts';
import { Mem } from '../../../../src/devices/virtio/mem.ts';
import { DEVICE_CONFIG, Driver } from '../../support/driver.ts';
import { NO_MEMORY } from '../../support/fake-host.ts';

const BLOCK = 2 * MIB;
const GPA = 4 * GIB;
const REGION = 32 * BLOCK;
const USABLE = 16 * BLOCK;

const [PLUG, UNPLUG, UNPLUG_ALL, STATE] = [0, 1, 2, 3];
const [ACK, NACK, ERROR] = [0, 1, 3];
const [PLUGGED, UNPLUGGED, MIXED] = [0, 1, 2];

let discarded: number[][];
let fails: boolean;
let warnings: string[];
/** When others are told: how many blocks are plugged then, how often was discarded. */
let followed: { plugged: number; discarded: number }[];
let othersFail: boolean;

beforeEach(() => {
  discarded = [];
  warnings = [];
  followed = [];
  othersFail = false;
  fails = false;
});

async function discard(ranges: Float64Array): Promise<void> {
  discarded.push([...ranges]);
  if (fails) throw new Error('EINVAL');
}

/** A driver that runs the device, and what it asks for. */
function start(requestedBytes = 8 * BLOCK, node = {}) {
  const plugged = new Uint8Array(REGION / BLOCK);
  const mem = new Mem(
    {
      ...{ gpa: GPA, regionBytes: REGION, blockBytes: BLOCK },
      ...{ usableBytes: USABLE, requestedBytes, ...node },
      plugged,
    },
    {
      id: 'mem0',
      memory: { ...NO_MEMORY, discard },
      blocksChanged: async () => {
        const count = plugged.reduce((sum, one) => sum + one, 0);
        followed.push({ plugged: count, discarded: discarded.length });
        if (othersFail) throw new Error('ENOMEM');
      },
      onWarning: (text) => warnings.push(text),
    },
  );
  const driver = new Driver(mem);
  driver.start();
  /** The type of the response, and the state in it. */
  const ask = async (type: number, first = 0, count = 1, gpa = GPA): Promise<number[]> => {
    const request = Buffer.alloc(24);
    request.writeUInt16LE(type);
    request.writeBigUInt64LE(BigInt(gpa + first * BLOCK), 8);
    request.writeUInt16LE(count, 16);
    const answer = Buffer.from(await driver.request(0, request, 10));
    return [answer.readUInt16LE(), answer.readUInt16LE(8)];
  };
  const config = (offset: number): number =>
    driver.read(DEVICE_CONFIG + offset, 4) + 2 ** 32 * driver.read(DEVICE_CONFIG + offset + 4, 4);
  return { mem, driver, ask, config };
}

test('the driver is told of a node, if there is one', () => {
  expect(start().mem.features & 1n).toBe(0n);
  const { mem, config } = start(0, { node: 3 });

  expect(mem.features & 1n).toBe(1n);
  expect(config(8)).toBe(3);
});

test('the driver is told of the region, and what it is asked to plug', () => {
  const { config } = start();

  expect([0, 16, 24, 32, 40, 48].map(config)).toEqual([BLOCK, GPA, REGION, USABLE, 0, 8 * BLOCK]);
});

test('blocks are plugged up to what is wanted, and no further', async () => {
  const { mem, ask, config } = start();

  expect(await ask(PLUG, 0, 6)).toEqual([ACK, 0]);
  expect(await ask(PLUG, 6, 3)).toEqual([NACK, 0]);
  expect(await ask(PLUG, 8, 2)).toEqual([ACK, 0]);
  expect(await ask(PLUG, 12)).toEqual([NACK, 0]);

  expect(mem.pluggedBytes).toBe(8 * BLOCK);
  expect(config(40)).toBe(8 * BLOCK);
});

test("blocks that are unplugged are the host's again", async () => {
  const { mem, ask } = start();
  await ask(PLUG, 0, 8);

  expect(await ask(UNPLUG, 2, 3)).toEqual([ACK, 0]);

  expect(discarded).toEqual([[GPA + 2 * BLOCK, 3 * BLOCK]]);
  expect(mem.pluggedBytes).toBe(5 * BLOCK);
  expect(await ask(PLUG, 2, 3)).toEqual([ACK, 0]);
});

test('all are unplugged at once', async () => {
  const { mem, ask } = start();
  await ask(PLUG, 0, 8);

  expect(await ask(UNPLUG_ALL)).toEqual([ACK, 0]);

  expect(discarded).toEqual([[GPA, REGION]]);
  expect(mem.pluggedBytes).toBe(0);
  expect(await ask(STATE, 0, 16)).toEqual([ACK, UNPLUGGED]);
});

test('others follow before the guest has blocks, and before the host has them back', async () => {
  const { ask } = start();
  await ask(PLUG, 0, 4);
  await ask(UNPLUG, 0, 1);

  await ask(UNPLUG_ALL);

  const [plugged, unplugged, none] = followed;
  expect([plugged, unplugged, none]).toEqual([
    { plugged: 4, discarded: 0 },
    { plugged: 3, discarded: 0 },
    { plugged: 0, discarded: 1 },
  ]);
});

test('blocks that others cannot reach are not plugged', async () => {
  const { mem, ask } = start();
  othersFail = true;

  expect(await ask(PLUG, 0, 4)).toEqual([NACK, 0]);

  expect(await ask(STATE, 0, 4)).toEqual([ACK, UNPLUGGED]);
  expect(mem.pluggedBytes).toBe(0);
  expect(warnings[0]).toContain('ENOMEM');
});

test('states are of all blocks in question', async () => {
  const { ask } = start();
  await ask(PLUG, 2, 4);

  expect(await ask(STATE, 2, 4)).toEqual([ACK, PLUGGED]);
  expect(await ask(STATE, 6, 10)).toEqual([ACK, UNPLUGGED]);
  expect(await ask(STATE, 1, 2)).toEqual([ACK, MIXED]);
});

test.each([
  ['no block', PLUG, 0, 0, GPA],
  ['an address within a block', PLUG, 4, 1, GPA + 4096],
  ['what lies below the region', PLUG, 0, 1, GPA - BLOCK],
  ['what lies beyond the usable part', PLUG, 15, 2, GPA],
  ['as many blocks as there are numbers', STATE, 0, 0xffff, GPA],
  ['an address beyond all', STATE, 0, 1, Number.MAX_SAFE_INTEGER],
  ['what is plugged, to be plugged', PLUG, 0, 2, GPA],
  ['what is unplugged, to be unplugged', UNPLUG, 1, 1, GPA],
  ['what is plugged in part, to be unplugged', UNPLUG, 0, 2, GPA],
  ['a request of no known type', 4, 0, 1, GPA],
])('%s is an error', async (_, type, first, count, gpa) => {
  const { mem, ask } = start();
  await ask(PLUG, 0, 1);

  expect(await ask(type, first, count, gpa)).toEqual([ERROR, 0]);

  expect(mem.pluggedBytes).toBe(BLOCK);
  expect(discarded).toEqual([]);
});

test('a request that is too short is an error, and one without room is completed', async () => {
  const { driver } = start();

  expect([...(await driver.request(0, new Uint8Array(23), 10))]).toEqual([
    ERROR,
    ...Array(9).fill(0),
  ]);
  expect(await driver.request(0, new Uint8Array(24), 0)).toHaveLength(0);
});

test('a new size is told with an interrupt, and what is plugged stays', async () => {
  const { mem, driver, ask, config } = start();
  await ask(PLUG, 0, 8);

  mem.resize(4 * BLOCK, REGION);

  expect(driver.interrupts(0)).toBe(1);
  expect([32, 40, 48].map(config)).toEqual([REGION, 8 * BLOCK, 4 * BLOCK]);
  expect(await ask(PLUG, 20)).toEqual([NACK, 0]);
  mem.resize(9 * BLOCK, REGION);
  expect(await ask(PLUG, 20)).toEqual([ACK, 0]);
});

test('a reset leaves blocks as they are', async () => {
  const { mem, driver, ask } = start();
  await ask(PLUG, 0, 8);

  await driver.reset();
  driver.start();

  expect(mem.pluggedBytes).toBe(8 * BLOCK);
  expect(await ask(STATE, 0, 8)).toEqual([ACK, PLUGGED]);
});

test('a host that takes nothing back is a warning, and the blocks are gone', async () => {
  const { ask } = start();
  await ask(PLUG, 0, 8);
  fails = true;

  expect(await ask(UNPLUG, 0, 8)).toEqual([ACK, 0]);

  expect(warnings[0]).toContain('mem0');
});

function agree(model: Set<number>, type: number, blocks: number[]): void {
  if (type === UNPLUG_ALL) model.clear();
  if (type === PLUG) for (const block of blocks) model.add(block);
  if (type === UNPLUG) for (const block of blocks) model.delete(block);
}

test('whatever is asked for, what is plugged is what was agreed to', async () => {
  const request = fc.tuple(fc.nat(4), fc.integer({ min: -2, max: 18 }), fc.nat(6));
  await fc.assert(
    fc.asyncProperty(fc.array(request, { maxLength: 40 }), async (requests) => {
      const { mem, ask } = start();
      const model = new Set<number>();
      for (const [type, first, count] of requests) {
        const [answer] = await ask(type, first, count);
        const blocks = Array.from({ length: count }, (_, i) => first + i);
        if (answer === ACK) agree(model, type, blocks);
      }
      expect(mem.pluggedBytes).toBe(model.size * BLOCK);
      expect(model.size).toBeLessThanOrEqual(8);
      expect([...model].every((i) => i >= 0 && i < 16)).toBe(true);
    }),
  );
});
