/** A PCI device of another process under Linux, which comes, goes, and loses that process. */
import { expect, test } from 'vitest';
import { linuxProgram } from '../support/linux-program.ts';
import { currentHost } from './support/current-host.ts';
import { Daemon } from './support/daemon.ts';
import { Guest } from './support/guest.ts';

const server = linuxProgram('test/e2e/programs/vfio-user.c');
const word = linuxProgram('test/e2e/programs/bar-word.c');

/** Where the device is, as Linux calls it. */
async function find(guest: Guest): Promise<string> {
  const { device_tree } = (await guest.api.get('vm.info')).json as {
    device_tree: Record<string, { pci_bdf?: string | null }>;
  };
  return `/sys/bus/pci/devices/${device_tree['toy']?.pci_bdf}`;
}

/** Linux's own view, then registers by way of messages, then what is mapped. */
async function works(guest: Guest, at: string): Promise<void> {
  await guest.eventually(`test -e ${at}/resource2`);
  expect(await guest.run(`cat ${at}/vendor ${at}/device`)).toBe('0x1af4\n0x7e57');
  await guest.run(`echo 1 > ${at}/enable`);
  const read = (bar: number, offset: number, value = '') =>
    guest.run(`bar-word ${at}/resource${bar} ${offset} ${value}`);
  expect(await read(0, 0)).toBe('7e57');
  expect(await read(0, 4, '0x1234abcd')).toBe('1234abcd');
  expect(await read(2, 0x8000, '0xfeedbeef')).toBe('feedbeef');
  expect(await read(0, 40)).toBe('feedbeef');
}

test('a device works, goes and comes again, and one whose server dies harms nobody', {
  timeout: 240_000,
}, async () => {
  const host = await currentHost();
  const program = await host.stage(server);
  await using daemon = await Daemon.run((folder) => [program, `${folder}/socket`]);
  const user = `socket=${daemon.socket},id=toy`;
  await using guest = await Guest.boot({
    args: ['--user-device', user],
    programs: { 'bar-word': word },
  });
  const at = await find(guest);
  await works(guest, at);

  expect((await guest.api.put('vm.remove-device', { id: 'toy' })).status).toBe(204);
  await guest.eventually(`test ! -e ${at}`);
  const info = async () => JSON.stringify((await guest.api.get('vm.info')).json);
  await expect.poll(info, { timeout: 30_000 }).not.toContain('toy');
  const added = await guest.api.put('vm.add-user-device', { socket: daemon.socket, id: 'toy' });
  expect(added).toMatchObject({ status: 200, json: { id: 'toy' } });
  await works(guest, at);

  await daemon.kill();
  expect(await guest.run(`bar-word ${at}/resource0 0`)).toBe('ffffffff');
  expect((await guest.api.get('vmm.ping')).status).toBe(200);
  expect((await guest.api.put('vm.shutdown')).status).toBe(204);
});
