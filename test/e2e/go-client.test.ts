import { setTimeout as sleep } from 'node:timers/promises';
import { beforeAll, expect, test } from 'vitest';
import { guestImages } from '../../guest-images/images.ts';
import { bundledKernel } from '../clients/bundled-kernel.ts';
import { ClientDriver } from '../clients/client-driver.ts';
import { type GoClientName, goClient } from '../clients/go-client.ts';
import { mustExec } from '../host/exec.ts';
import { startService } from './support/api-boot.ts';
import type { Guest } from './support/guest.ts';
import { QUIET } from './support/shell.ts';

const BOOT_TIMEOUT_MS = 90_000;
/** A running guest answers long before. */
const SILENCE_MS = 2000;
const MIB = 1024 * 1024;

// Making it takes longer than a test may.
beforeAll(async () => {
  await goClient('go-2020');
  await goClient('go-2026');
});

async function startDriver({ host, directory }: Guest, name: GoClientName): Promise<ClientDriver> {
  const binary = await host.stage(await goClient(name));
  return new ClientDriver(await host.spawn([binary, `${directory}/api.sock`]));
}

const answers = (driver: ClientDriver, ...steps: string[]) => driver.answers(...steps);

const done = (step: string, status = 204) => ({ step, status });
const info = (state: string) => ({ step: 'info', status: 200, state });

/** Waits until the guest's shell answers: an echo that the host cannot have made. */
async function untilReady(guest: Guest): Promise<void> {
  await guest.waitFor('guest: ready', BOOT_TIMEOUT_MS);
  guest.console.type(`${QUIET}\n`);
  expect(await guest.run('expr 6 \\* 7')).toBe('42');
}

test('the Go client of 2020 takes a guest through its whole life', async () => {
  await using guest = await startService();
  await using driver = await startDriver(guest, 'go-2020');
  const kernel = await bundledKernel(await guestImages());
  const config = {
    cpus: { boot_vcpus: 1, max_vcpus: 1 },
    memory: { size: 512 * MIB },
    kernel: { path: await guest.host.stage(kernel.path) },
    cmdline: { args: `console=ttyS0 quiet panic=-1 ${kernel.cmdline}` },
    rng: { src: '/dev/urandom' },
    serial: { mode: 'Tty' },
    console: { mode: 'Off' },
  };

  expect(await answers(driver, 'ping', `create ${JSON.stringify(config)}`, 'info Created')).toEqual(
    [done('ping', 200), done('create'), info('Created')],
  );
  expect(await answers(driver, 'boot', 'info Running')).toEqual([done('boot'), info('Running')]);
  await untilReady(guest);

  expect(await answers(driver, 'pause', 'info Paused')).toEqual([done('pause'), info('Paused')]);
  const answer = guest.run('expr 6 \\* 7');
  expect(await Promise.race([answer, sleep(SILENCE_MS, 'silence')])).toBe('silence');
  expect(await answers(driver, 'resume', 'info Running')).toEqual([
    done('resume'),
    info('Running'),
  ]);
  expect(await answer).toBe('42');

  expect(await answers(driver, 'reboot', 'info Running')).toEqual([
    done('reboot'),
    info('Running'),
  ]);
  await untilReady(guest);

  expect(await answers(driver, 'shutdown', 'info Created', 'delete', 'vmm.shutdown')).toEqual([
    done('shutdown'),
    info('Created'),
    done('delete'),
    done('vmm.shutdown', 200), // the document says 204, but this is what every version answered
  ]);
  expect(await driver.finish()).toBe(0);
  expect(await guest.exited).toBe(0);
});

test('every field that the Go client of 2020 knows comes back as it was sent', async () => {
  await using guest = await startService();
  await using driver = await startDriver(guest, 'go-2020');
  const { directory } = guest;
  await mustExec(guest.host, `truncate -s 64M ${directory}/disk.img ${directory}/pmem.img`);
  const kernel = await guest.host.stage((await guestImages()).vmlinux);
  const config = everyField(kernel, directory);

  expect(
    await answers(driver, 'ping', `create-every ${JSON.stringify(config)}`, 'info Created'),
  ).toEqual([done('ping', 200), done('create-every'), info('Created')]);
  expect(await answers(driver, 'delete', 'vmm.shutdown')).toEqual([
    done('delete'),
    done('vmm.shutdown', 200),
  ]);
  expect(await guest.exited).toBe(0);
});

/**
 * Every field of the client's model, none with its default, but for those that default to true: the
 * client leaves out what is false. A path always goes along, though a vhost-user disk has none.
 */
const everyField = (kernel: string, directory: string) => ({
  cpus: { boot_vcpus: 2, max_vcpus: 4 },
  memory: { size: 512 * MIB, hotplug_size: 256 * MIB, file: '/dev/shm', mergeable: true },
  kernel: { path: kernel },
  cmdline: { args: 'console=ttyS0 quiet' },
  disks: [
    {
      path: `${directory}/disk.img`,
      readonly: true,
      direct: true,
      iommu: true,
      num_queues: 2,
      queue_size: 64,
      wce: true,
      poll_queue: true,
    },
    {
      ...{ path: '', num_queues: 1, queue_size: 128, wce: true, poll_queue: true },
      vhost_user: true,
      vhost_socket: `${directory}/block.sock`,
    },
  ],
  net: [
    {
      tap: 'tap0',
      ip: '10.0.0.1',
      mask: '255.255.0.0',
      mac: '02:00:00:00:00:01',
      iommu: true,
      num_queues: 4,
      queue_size: 128,
    },
    {
      ...{ ip: '192.168.249.1', mask: '255.255.255.0', num_queues: 2, queue_size: 256 },
      mac: '02:00:00:00:00:02',
      vhost_user: true,
      vhost_socket: `${directory}/net.sock`,
    },
  ],
  rng: { src: '/dev/random', iommu: true },
  fs: [
    {
      tag: 'share',
      sock: `${directory}/fs.sock`,
      num_queues: 2,
      queue_size: 512,
      dax: true,
      cache_size: 1024 * MIB,
    },
  ],
  pmem: [
    {
      file: `${directory}/pmem.img`,
      size: 64 * MIB,
      iommu: true,
      mergeable: true,
      discard_writes: true,
    },
  ],
  serial: { file: `${directory}/serial.log`, mode: 'File', iommu: true },
  console: { file: `${directory}/console.log`, mode: 'File', iommu: true },
  devices: [{ path: '/sys/bus/pci/devices/0000:00:1f.2', iommu: true, id: 'passed' }],
  vsock: [{ cid: 3, sock: `${directory}/vsock.sock`, iommu: true }],
  iommu: true,
});
