/** A device of another process as a guest drives it, also when that process fails. */
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { normalise } from '../../src/api/dialects.ts';
import { MIB } from '../../src/bytes.ts';
import { Consoles } from '../../src/vmm/consoles.ts';
import { Vm } from '../../src/vmm/vm.ts';
import { bareGuest } from '../support/bare-guest.ts';
import { until } from '../support/micro-guest.ts';
import { type FAILURES, VfioUserServer } from '../support/vfio-user-server.ts';

let folder: string;
let heard: string[];
let server: VfioUserServer;
let vm: Vm;
let consoles: Consoles;

beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'vfio-user-'));
  heard = [];
});

afterEach(async () => {
  await vm.shutdown();
  consoles.close();
  await server.kill();
  rmSync(folder, { recursive: true });
});

async function boot(failure: keyof typeof FAILURES, more: object = {}): Promise<void> {
  const socket = join(folder, 'socket');
  server = await VfioUserServer.start(socket, failure);
  const { config } = normalise({
    payload: { kernel: bareGuest('vfio-user') },
    memory: { size: 64 * MIB, shared: true },
    ...{ serial: { mode: 'File', file: join(folder, 'serial') }, console: { mode: 'Off' } },
    ...{ user_devices: [{ id: 'toy', socket }], ...more },
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
const ended = () => until(() => heard.includes('power off') && said().at(-1) === 'done');

const SERVED = [
  'registers 7e57 12345678 1234 78',
  'vendor cafef00d, table of 4',
  'shared feedbeef feedbeef 600dcafe',
  'vectors 1 1 1 1',
  'copies without mastering: 0',
  'copies: 1, wrong 0; outside RAM: 0',
  'ranges 1, resets 1',
];

test('a guest reads and writes registers and what is mapped, is interrupted, and has RAM copied', async () => {
  await boot('none');
  await ended();
  await vm.shutdown();

  expect(said()).toEqual([...SERVED, 'done']);
  expect(heard).toEqual(['power off']);
  await server.says('gone');
  expect(server.said).toEqual([
    ...['ready', 'connected', 'reset', `map 0 0x${(64 * MIB).toString(16)}`],
    ...['irqs 2', 'irqs 2', 'irqs 0', 'reset', `unmap 0 0x${(64 * MIB).toString(16)}`, 'gone'],
  ]);
});

test('a server that dies under a register leaves all ones, and the guest goes on', async () => {
  await boot('ends');
  await ended();

  expect(said()).toEqual([...SERVED, 'then ffffffff ffffffff 7e571af4', 'done']);
  expect(heard).toEqual([expect.stringMatching(/^Device toy: It is gone until/), 'power off']);
});

test('a server that hangs stops its device after seconds, and nothing else', async () => {
  await boot('hangs');
  await until(() => said().length === SERVED.length);
  const began = performance.now();
  let turns = 0;
  const timer = setInterval(() => turns++, 10);
  await ended();
  clearInterval(timer);

  expect(said().slice(-2)).toEqual(['then ffffffff ffffffff 7e571af4', 'done']);
  expect(heard[0]).toMatch(/no answer to regionWrite within 5000 ms/);
  expect(turns).toBeGreaterThan((performance.now() - began) / 40);
}, 30_000);

test('a guest that waits for a server can be shut down', async () => {
  await boot('hangs');
  await until(() => said().length === SERVED.length);
  await vm.shutdown();
  expect(said()).toEqual(SERVED);
}, 30_000);
