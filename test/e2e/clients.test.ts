/** Clients of today take a Debian guest through its whole life, and the guest lives it. */
import { setTimeout as sleep } from 'node:timers/promises';
import { beforeAll, describe, expect, test } from 'vitest';
import { ClientDriver, takes } from '../clients/client-driver.ts';
import { goClient } from '../clients/go-client.ts';
import { rustClient } from '../clients/rust-client.ts';
import { mustExec } from '../host/exec.ts';
import { apiConfig, startService } from './support/api-boot.ts';
import type { Guest } from './support/guest.ts';
import { ScratchDisk } from './support/scratch-disk.ts';
import { DIST } from './support/vmm.ts';

const MIB = 1024 * 1024;
/** A guest that boots twice, on a host that is busy. */
const TEST_TIMEOUT_MS = 300_000;
/** A running guest answers long before. */
const SILENCE_MS = 2000;

const REMOVAL = { timeout: 60_000, interval: 200 };

const EVENTS = [
  ...['vmm starting', 'vm booting', 'vm booted'],
  ...['vm resizing', 'vm resized', 'vm resizing', 'vm resized', 'vm device-removed'],
  ...['vm pausing', 'vm paused', 'vm resuming', 'vm resumed', 'vm rebooting', 'vm rebooted'],
  ...['vm shutdown', 'vm deleted', 'vmm shutdown'],
];

type Command = (guest: Guest) => Promise<string[]>;

const CLIENTS: Record<string, () => Promise<Command>> = {
  'Go, 2026': async () => {
    const binary = await goClient('go-2026');
    return async ({ host }) => [await host.stage(binary)];
  },
  'Rust, 0.3.3': async () => {
    const binary = await rustClient();
    return async ({ host }) => [await host.stage(binary), '0.3'];
  },
  'Rust, 0.6.0': async () => {
    const binary = await rustClient();
    return async ({ host }) => [await host.stage(binary), '0.6'];
  },
};

/** With room to grow. */
async function configOf(guest: Guest): Promise<object> {
  const config = await apiConfig(guest, { dialect: 'today', kernel: 'vmlinux' });
  return {
    ...config,
    cpus: { boot_vcpus: 1, max_vcpus: 2 },
    memory: { size: 512 * MIB, hotplug_size: 512 * MIB },
  };
}

const ONLINE = 'echo online_movable >/sys/devices/system/memory/auto_online_blocks';
const CPU1 = '/sys/devices/system/cpu/cpu1/online';
const atLeastMib = (mib: number) =>
  `test $(awk '/MemTotal/{print int($2/1024)}' /proc/meminfo) -ge ${mib}`;

/** What ch-remote says of the VM that the client has made, and what it refuses. */
async function expectRemoteWorks({ host, directory, vmm }: Guest): Promise<void> {
  const remote = `${await host.stage(DIST)}/ch-remote --api-socket ${directory}/api.sock`;

  expect(JSON.parse(await mustExec(host, `${remote} info`))).toMatchObject({ state: 'Running' });
  expect(JSON.parse(await mustExec(host, `${remote} ping`))).toMatchObject({ pid: vmm.pid });
  expect(JSON.parse(await mustExec(host, `${remote} counters`))).toHaveProperty('added');
}

/** The events that were told, in their order. */
async function eventsOf({ host, directory }: Guest): Promise<string[]> {
  const text = await mustExec(host, `cat ${directory}/events`);
  const events = text.split('\n\n').filter((each) => each.trim() !== '');
  return events
    .map((each) => JSON.parse(each) as { source: string; event: string })
    .filter(({ source }) => source !== 'virtio-device')
    .map(({ source, event }) => `${source} ${event}`);
}

describe.each(Object.entries(CLIENTS))('%s', (_name, make) => {
  let command: Command;

  // Making it takes longer than a test may.
  beforeAll(async () => {
    command = await make();
  }, 900_000);

  test('takes a guest through its whole life', { timeout: TEST_TIMEOUT_MS }, async () => {
    await using disk = await ScratchDisk.make(16, 'random');
    await using guest = await startService(['--event-monitor', 'path=events']);
    const argv = [...(await command(guest)), `${guest.directory}/api.sock`];
    await using driver = new ClientDriver(await guest.host.spawn(argv));
    const config = await configOf(guest);
    await takes(driver, 'ping', `create ${JSON.stringify(config)}`, 'info Created');
    await takes(driver, 'boot', 'info Running');
    await guest.ready();

    await takes(driver, 'resize {"desired_vcpus":2}');
    await guest.eventually(`test -e ${CPU1} && echo 1 >${CPU1} && test $(nproc) = 2`);
    await guest.run(ONLINE);
    await takes(driver, `resize {"desired_ram":${1024 * MIB}}`);
    await guest.eventually(atLeastMib(900));
    const added = await takes(
      driver,
      `add-disk ${JSON.stringify({ path: disk.path, readonly: true, id: 'added' })}`,
    );
    const sum = await guest.eventually('test -b /dev/vda && sha256sum /dev/vda');
    expect(sum.split(' ')[0]).toBe(await disk.imageSha256());
    expect(await guest.run('readlink -f /sys/block/vda')).toContain(`/${added?.device?.bdf}/`);
    await expectRemoteWorks(guest);
    await takes(driver, 'remove-device added');
    // The guest ejects what it has let go of.
    const plugged = async () => (await guest.api.get('vm.info')).text;
    await expect.poll(plugged, REMOVAL).not.toContain('"added"');
    await guest.run('test ! -e /dev/vda');

    await takes(driver, 'pause', 'info Paused');
    const answer = guest.run('expr 6 \\* 7');
    expect(await Promise.race([answer, sleep(SILENCE_MS, 'silence')])).toBe('silence');
    await takes(driver, 'resume', 'info Running');
    expect(await answer).toBe('42');
    await takes(driver, 'reboot', 'info Running');
    await guest.ready();
    expect(await guest.run('nproc')).toBe('2');
    expect(await guest.run(`${atLeastMib(900)}; echo $?`)).toBe('0');

    await takes(driver, 'shutdown', 'info Created', 'delete', 'vmm.shutdown');
    expect(await driver.finish()).toBe(0);
    expect(await guest.exited).toBe(0);
    expect(await eventsOf(guest)).toEqual(EVENTS);
  });
});
