/**
 * A process of its own, so that its memory is its own too: `flood.ts MODE` has a guest print
 * without end on a console whose far side does not read, and somebody type without end at a guest
 * that does not. It prints how much the process grows by 40 MiB of that, and how much was taken
 * from who types.
 */
import { closeSync, constants, mkdtempSync, openSync, rmSync } from 'node:fs';
import { connect, type Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { MIB } from '../../../src/bytes.ts';
import { Console } from '../../../src/devices/virtio/console.ts';
import { CharBackend, type CharSettings } from '../../../src/vmm/char-backend.ts';
import { ConsolePort } from '../../../src/vmm/console-port.ts';
import { growth } from './growth.ts';
import { newRam, RAM_BYTES, Rig } from './rig.ts';

const FLOOD_BYTES = 8 * MIB; // for ten times and more
const TYPED_BYTES = 4 * MIB;
const CHAINS = 64;
const CHAIN_BYTES = 4096;

async function print(bytes: number): Promise<void> {
  const request = { queue: 1, readableBytes: CHAIN_BYTES, writableBytes: 0 };
  for (let sent = 0; sent < bytes; sent += CHAINS * CHAIN_BYTES) {
    rig.send(request, CHAINS);
    await rig.served(1, CHAINS);
  }
}

const folder = mkdtempSync(join(tmpdir(), 'flood-'));
const settings: CharSettings = {
  mode: process.argv[2] as CharSettings['mode'],
  file: join(folder, 'file'),
  socket: join(folder, 'socket'),
};
const backend = new CharBackend('console', settings);
const port = new ConsolePort(backend, undefined);
const memory = newRam();
memory.write(0, Buffer.alloc(RAM_BYTES, 0x2e));
const rig = new Rig(new Console(port), { memory });
rig.start();

/** Somebody who types and does not read. */
let typist: Socket | undefined;
let slave: number | undefined;
if (backend.ptyPath) slave = openSync(backend.ptyPath, constants.O_RDWR | constants.O_NOCTTY);
if (settings.mode === 'Socket') typist = connect(settings.socket ?? '').pause();
if (typist) await new Promise((resolve) => typist?.once('connect', resolve));

for (let sent = 0; sent < TYPED_BYTES; sent += CHAIN_BYTES)
  typist?.write(Buffer.alloc(CHAIN_BYTES));
const grown = await growth(() => print(FLOOD_BYTES));
const taken = typist ? TYPED_BYTES - typist.writableLength : 0;

await port.flush();
typist?.destroy();
if (slave !== undefined) closeSync(slave);
await rig[Symbol.asyncDispose]();
await port.close();
backend.close();
rmSync(folder, { recursive: true });
console.log(JSON.stringify({ grown, taken }));
