/** Persistent memory as a guest sees it, and what of its writes comes to the file. */
import { execFileSync } from 'node:child_process';
import {
  closeSync,
  mkdtempSync,
  openSync,
  readFileSync,
  rmSync,
  statSync,
  truncateSync,
  writeFileSync,
  writeSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { normalise } from '../../src/api/dialects.ts';
import { Consoles } from '../../src/vmm/consoles.ts';
import { Vm } from '../../src/vmm/vm.ts';
import { bareGuest } from '../support/bare-guest.ts';
import { until } from '../support/micro-guest.ts';

const MIB = 1 << 20;
const [AGAIN, END] = [1, 2];

let folder: string;
let file: string;
let heard: string[];
let vm: Vm;
let consoles: Consoles;

beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'pmem-'));
  file = join(folder, 'pmem.img');
  heard = [];
});

afterEach(async () => {
  await vm.shutdown();
  consoles.close();
  rmSync(folder, { recursive: true });
});

/** A file whose first byte is 0x11 and last 0x99, and whose third tells the guest what to do. */
function make(sizeBytes: number, order: number): void {
  const bytes = Buffer.alloc(sizeBytes);
  bytes[0] = 0x11;
  bytes[2] = order;
  bytes[sizeBytes - 1] = 0x99;
  writeFileSync(file, bytes);
}

function tell(order: number): void {
  const fd = openSync(file, 'r+');
  writeSync(fd, Uint8Array.of(order), 0, 1, 2);
  closeSync(fd);
}

async function boot(pmem: object): Promise<void> {
  const serial = join(folder, 'serial');
  const { config } = normalise({
    ...{ payload: { kernel: bareGuest('pmem') }, memory: { size: 64 * MIB } },
    ...{ serial: { mode: 'File', file: serial }, console: { mode: 'Off' } },
    pmem: [{ id: '_pmem0', file, ...pmem }],
  });
  consoles = new Consoles(config);
  vm = await Vm.boot(config, consoles, {
    onPowerOff: () => heard.push('power off'),
    onReset: () => heard.push('reset'),
    onError: ({ message }) => heard.push(message),
    onWarning: (message) => heard.push(message),
    onEvent: () => {},
  });
}

const said = (): string[] => readFileSync(join(folder, 'serial'), 'utf8').split('\n').slice(0, -1);

/** Its last words; the power-off may be heard before they are written. */
const ended = () => until(() => heard.includes('power off') && said().length === ALL_SAID.length);

const ALL_SAID = ['4194304 bytes, first 11', 'second 77', 'flush 0, 4 bytes', 'last 99'];

test('a guest reads and writes the file, and has it flushed', async () => {
  make(4 * MIB, END);

  await boot({});
  await ended();

  expect(heard).toEqual(['power off']);
  expect(said()).toEqual(ALL_SAID);
  expect(readFileSync(file)[1]).toBe(0x77);
  const { children, pci_bdf } = vm.deviceTree['_virtio-pci-_pmem0'] ?? {};
  expect([children, pci_bdf]).toEqual([['_pmem0'], '0000:00:02.0']);
  expect(vm.deviceTree['_pmem0']?.resources).toEqual([
    { MmioAddressRange: { base: 0x1_0000_0000, size: 4 * MIB } },
  ]);
});

test('what is written with discard_writes stays with the guest', async () => {
  make(4 * MIB, END);

  await boot({ discard_writes: true });
  await ended();

  expect(said()).toEqual(ALL_SAID);
  expect(readFileSync(file)[1]).toBe(0);
});

test('of a file that may not be written the guest reads, and its writes go nowhere', async () => {
  make(4 * MIB, END);
  execFileSync('chattr', ['+i', file]);
  try {
    await boot({});
    await ended();
  } finally {
    execFileSync('chattr', ['-i', file]);
  }

  expect(heard).toEqual([expect.stringContaining('may not be written'), 'power off']);
  expect(said()).toEqual([ALL_SAID[0], 'second 0', 'flush 0, 4 bytes', 'last 99']);
  expect(readFileSync(file)[1]).toBe(0);
});

test('a folder has a file of the given size in it, which nobody else sees', async () => {
  make(2 * MIB, END);
  const before = statSync(folder).mtimeMs;

  await boot({ file: folder, size: 2 * MIB });
  await until(() => said().length > 2);

  expect(said()).toEqual(['2097152 bytes, first 0', 'second 77', 'flush 0, 4 bytes']);
  expect(statSync(folder).mtimeMs).toBeGreaterThan(before); // made here, and unlinked
});

test('a file cut short under the guest fails its flushes, and the process lives on', async () => {
  make(4 * MIB, 0);
  await boot({});
  await until(() => said().length === 3);

  truncateSync(file, 2 * MIB);
  tell(AGAIN);
  await until(() => said().length === 4);
  tell(END);
  await until(() => heard.length > 1);

  expect(said().slice(0, 4)).toEqual([...ALL_SAID.slice(0, 3), 'flush 1, 4 bytes']);
  // What is gone stops the vCPU, or reads all ones where KVM interprets the guest.
  expect(heard).toEqual([
    'Persistent memory _pmem0: Its file has only 2097152 bytes left of 4194304',
    expect.stringMatching(/EFAULT|power off/),
  ]);
});
