/** Sources of entropy that are none, as a client finds out. */
import { execFileSync } from 'node:child_process';
import { mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { printing } from './support/serial-guests.ts';
import { VmmProcess } from './support/vmm-process.ts';

const UNUSABLE: [string, (path: string) => void, string][] = [
  ['that is missing', () => {}, 'No such file or directory (os error 2)'],
  ['that is a directory', (path) => mkdirSync(path), 'Not a character device or file'],
  [
    'that is a FIFO which never gives',
    (path) => void execFileSync('mkfifo', [path]),
    'Not a character device or file',
  ],
];

test.each(UNUSABLE)(
  'a source %s is refused at once, and the next one is taken',
  async (_, put, text) => {
    await using vmm = await VmmProcess.start();
    const [kernel, src] = [join(vmm.folder, 'vmlinux'), join(vmm.folder, 'source')];
    writeFileSync(kernel, printing('x'));
    put(src);
    const config = { payload: { kernel }, memory: { size: 32 << 20 }, console: { mode: 'Off' } };

    const { status, body } = await vmm.put('vm.create', { ...config, rng: { src } });

    expect(status).toBe(400);
    expect(body).toEqual([
      'Error from API',
      'The VM could not be created',
      'Error from device manager',
      'Cannot create virtio-rng device',
      text,
      `rng.src is ${src}: name a character device or a file that can be read`,
    ]);
    expect(await vmm.state()).toBe('None');
    expect((await vmm.put('vm.create', { ...config, rng: { src: '/dev/urandom' } })).status).toBe(
      204,
    );
  },
);

test('a source that is silent for ever keeps no verb waiting', async () => {
  await using vmm = await VmmProcess.start();
  const kernel = join(vmm.folder, 'vmlinux');
  writeFileSync(kernel, printing('x'));
  const rng = { src: '/dev/ptmx' };
  await vmm.put('vm.create', { payload: { kernel }, memory: { size: 32 << 20 }, rng });

  for (const verb of ['vm.boot', 'vm.pause', 'vm.resume', 'vm.reboot', 'vm.shutdown', 'vm.delete'])
    expect((await vmm.put(verb)).status, verb).toBe(204);
});
