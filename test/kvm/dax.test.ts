/** The windows of file systems as a guest finds and moves them, with files of their backends. */
import { closeSync, mkdtempSync, openSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { normalise } from '../../src/api/dialects.ts';
import { MIB, Writer } from '../../src/bytes.ts';
import {
  BACKEND_REQUEST,
  encode,
  encodeU64,
  PROTOCOL,
  REQUEST,
} from '../../src/devices/vhost-user/protocol.ts';
import { Consoles } from '../../src/vmm/consoles.ts';
import { Vm } from '../../src/vmm/vm.ts';
import { bareGuest } from '../support/bare-guest.ts';
import { until } from '../support/micro-guest.ts';
import { ScriptedBackend } from '../unit/support/scripted-backend.ts';

const PAGE = 4096;
const DAX = PROTOCOL.mq | PROTOCOL.replyAck | PROTOCOL.backendReq | PROTOCOL.backendSendFd;

let folder: string;
let heard: string[];
const backends: ScriptedBackend[] = [];
const files: number[] = [];

beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'dax-'));
  heard = [];
});

afterEach(() => {
  for (const backend of backends.splice(0)) backend.die();
  for (const fd of files.splice(0)) closeSync(fd);
  rmSync(folder, { recursive: true });
});

/** Two pages from the start of the window on, which are there before the guest runs. */
function serve(name: string, firstByte: number): { sock: string; tag: string } {
  const path = join(folder, name);
  writeFileSync(`${path}.file`, Buffer.alloc(2 * PAGE, firstByte));
  const file = openSync(`${path}.file`, 'r+');
  files.push(file);
  const ranges = new Writer(256).u64(128, 2 * PAGE).u64(192, 3).bytes;
  const mapFile = async (backend: ScriptedBackend) => {
    heard.push(`${name} ${await backend.ask(BACKEND_REQUEST.fsMap, ranges, [file])}`);
    backend.say(encode(REQUEST.setBackendReqFd, encodeU64(0), { isReply: true }));
  };
  const backend: ScriptedBackend = new ScriptedBackend({
    ...{ path, protocol: DAX, wantsAnswers: true },
    script: {
      setBackendReqFd: () => {
        void mapFile(backend);
        return 'silence';
      },
    },
  });
  backends.push(backend);
  return { sock: path, tag: name };
}

/** Memory of this process that is there, in bytes. */
const residentBytes = (): number =>
  PAGE * Number(readFileSync('/proc/self/statm', 'utf8').split(' ')[1]);

test('a guest finds both, moves them, and reads and writes what is there', async () => {
  const serial = join(folder, 'serial');
  const { config } = normalise({
    ...{ kernel: { path: bareGuest('dax') }, memory: { size: 64 * MIB } },
    ...{ serial: { mode: 'File', file: serial }, console: { mode: 'Off' } },
    fs: [
      { ...serve('a', 0xa1), cache_size: 64 * MIB },
      { ...serve('b', 0xb1), cache_size: 6 * MIB },
      serve('c', 0xc1),
    ],
  });
  const before = residentBytes();
  const consoles = new Consoles(config);
  const vm = await Vm.boot(config, consoles, {
    onPowerOff: () => heard.push('power off'),
    onReset: () => heard.push('reset'),
    onError: ({ message }) => heard.push(message),
    onWarning: (message) => heard.push(message),
    onEvent: () => {},
  });
  const growth = residentBytes() - before;
  const said = () => readFileSync(serial, 'utf8').split('\n').slice(0, -1);
  await until(() => heard.includes('power off') && said().length === 5);
  await vm.shutdown();
  consoles.close();

  expect(said()).toEqual([
    `${64 * MIB} bytes, flags 12`,
    `${6 * MIB} bytes, above 4 GiB 1`,
    'first a1',
    'second b1',
    'RAM 0, nothing ff',
  ]);
  expect(heard.slice(0, 4)).toEqual(['a 0', 'b 0', 'c 0', 'power off']);
  expect(readFileSync(join(folder, 'a.file'))[PAGE]).toBe(0x77);
  expect(growth).toBeLessThan(100 * MIB); // of 8 GiB
});
