/** The debug console from outside, with guests that print to its port. */
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { Peer } from './support/peer.ts';
import { printing, streaming, streamText } from './support/serial-guests.ts';
import { done } from './support/verbs.ts';
import { VmmProcess } from './support/vmm-process.ts';

const PORT = 0xe9;
const RING_BYTES = 64 * 1024;
const SOON = { timeout: 10_000, interval: 5 };

interface Info {
  config: { debug_console: { file?: string } };
  device_tree?: Record<string, object>;
}

const infoOf = async (vmm: VmmProcess) => (await vmm.get('vm.info')).body as Info;

async function create(vmm: VmmProcess, debugConsole: object, kernel: Uint8Array): Promise<void> {
  const path = join(vmm.folder, 'vmlinux');
  writeFileSync(path, kernel);
  const { status, text } = await vmm.put('vm.create', {
    ...{ payload: { kernel: path }, memory: { size: 32 << 20 } },
    ...{ console: { mode: 'Off' }, debug_console: debugConsole },
  });
  expect(status, text).toBe(204);
}

test('a file has what the latest boot wrote to the port, and the device tree has the device', async () => {
  await using vmm = await VmmProcess.start();
  const file = join(vmm.folder, 'debug');
  writeFileSync(file, 'of old');
  await create(vmm, { mode: 'File', file, iobase: 0x500 }, printing('new', 0x500));
  expect(readFileSync(file, 'utf8')).toBe('');

  for (const verb of ['vm.boot', 'vm.reboot']) {
    await done(vmm, verb);
    await expect.poll(() => readFileSync(file, 'utf8'), SOON).toBe('new');
  }

  const { device_tree: tree } = await infoOf(vmm);
  expect(tree?.['__debug_console']).toEqual({
    id: '__debug_console',
    resources: [],
    children: [],
  });
});

test('a pty has a name from create on, the same after a reboot, and the newest 64 KiB', async () => {
  await using vmm = await VmmProcess.start();
  await create(vmm, { mode: 'Pty' }, streaming(80_000, 'halt', PORT));
  const file = (await infoOf(vmm)).config.debug_console.file ?? '';
  expect(file).toMatch(/^\/dev\/pts\/\d+$/);
  await done(vmm, 'vm.boot', 'vm.reboot');
  expect((await infoOf(vmm)).config.debug_console.file).toBe(file);

  using peer = await Peer.ofPty(file);
  peer.type('to nobody'.repeat(1000));

  await expect
    .poll(() => peer.text.slice(-RING_BYTES), { timeout: 20_000 })
    .toBe(`${streamText(80_000)}END`.slice(-RING_BYTES));
});

test('from the command line it prints to the terminal, at the port that is asked for', async () => {
  await using vmm = await VmmProcess.start({
    stdio: ['ignore', 'pipe', 'ignore'],
    args: (folder) => {
      writeFileSync(join(folder, 'vmlinux'), printing('shown', 0x403));
      return ['--kernel', 'vmlinux', '--console', 'off', '--debug-console', 'tty,iobase=0x403'];
    },
  });
  let shown = '';
  vmm.child.stdout?.on('data', (bytes: Buffer) => {
    shown += bytes.toString('latin1');
  });

  await expect.poll(() => shown, SOON).toBe('shown');
});

test.each([
  ['none', 'is taken', { mode: 'Null', iobase: 0x70 }],
  ['file in no folder', 'No such file or directory', { mode: 'File', file: '/none/debug' }],
])('%s: refused, and nothing is created', async (_name, text, debugConsole) => {
  await using vmm = await VmmProcess.start();

  const answer = await vmm.put('vm.create', {
    payload: {},
    console: { mode: 'Off' },
    debug_console: debugConsole,
  });

  expect(answer.status).toBe(400);
  expect(answer.text).toContain(text);
  expect(answer.text).toContain('debug_console.');
  expect(await vmm.state()).toBe('None');
});
