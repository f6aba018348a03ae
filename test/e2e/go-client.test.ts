import { setTimeout as sleep } from 'node:timers/promises';
import { beforeAll, expect, test } from 'vitest';
import { guestImages } from '../../guest-images/images.ts';
import { bundledKernel } from '../clients/bundled-kernel.ts';
import { ClientDriver } from '../clients/client-driver.ts';
import { type GoClientName, goClient } from '../clients/go-client.ts';
import { mustExec } from '../host/exec.ts';
import { startService } from './support/api-boot.ts';
import type { Guest } from './support/guest.ts';
import { ScratchDisk } from './support/scratch-disk.ts';
import { QUIET } from './support/shell.ts';

const BOOT_TIMEOUT_MS = 90_000;
/** A running guest answers long before. */
const SILENCE_MS = 2000;
const MIB = 1024 * 1024;
/** A guest that boots twice, on a host that is busy. */
const TEST_TIMEOUT_MS = 300_000;

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

/** As Kata starts one for each pod; it ends with its connection. @returns its socket. */
async function startShare({ host, directory }: Guest): Promise<string> {
  const socket = `${directory}/virtiofsd.sock`;
  const daemon = `/usr/lib/qemu/virtiofsd --socket-path=${socket} -o source=${directory}/share`;
  const start = `while test -d ${directory}; do ${daemon} -o cache=auto -o sandbox=chroot; done`;
  await mustExec(host, `mkdir ${directory}/share && echo shared >${directory}/share/file`);
  const { stdout, stderr } = await host.spawn(['sh', '-c', start]);
  for (const stream of [stdout, stderr]) stream.resume();
  await mustExec(host, `until [ -S ${socket} ]; do sleep 0.05; done`);
  return socket;
}

const CPU1 = '/sys/devices/system/cpu/cpu1/online';

async function expectShared(guest: Guest): Promise<void> {
  await guest.run('mount -t virtiofs kataShared /mnt');
  expect(await guest.run('cat /mnt/file')).toBe('shared');
  await guest.run('umount /mnt');
}

test('the Go client of 2020 takes a guest through its whole life', {
  timeout: TEST_TIMEOUT_MS,
}, async () => {
  await using root = await ScratchDisk.make(16);
  await using disk = await ScratchDisk.make(16, 'random');
  await using guest = await startService();
  await using driver = await startDriver(guest, 'go-2020');
  const kernel = await bundledKernel(await guestImages());
  const config = {
    cpus: { boot_vcpus: 1, max_vcpus: 2 },
    memory: { size: 512 * MIB, file: '/dev/shm' },
    kernel: { path: await guest.host.stage(kernel.path) },
    cmdline: { args: `console=ttyS0 quiet panic=-1 ${kernel.cmdline}` },
    disks: [
      {
        ...{ path: root.path, readonly: true, num_queues: 1, queue_size: 128 },
        ...{ wce: true, poll_queue: true },
      },
    ],
    rng: { src: '/dev/urandom' },
    fs: [
      {
        ...{ tag: 'kataShared', sock: await startShare(guest), num_queues: 1, queue_size: 1024 },
        ...{ dax: true, cache_size: 128 * MIB },
      },
    ],
    vsock: [{ cid: 3, sock: `${guest.directory}/clh.sock` }],
    serial: { mode: 'Tty' },
    console: { mode: 'Off' },
  };

  expect(await answers(driver, 'ping', `create ${JSON.stringify(config)}`, 'info Created')).toEqual(
    [done('ping', 200), done('create'), info('Created')],
  );
  expect(await answers(driver, 'boot', 'info Running')).toEqual([done('boot'), info('Running')]);
  await untilReady(guest);
  await expectShared(guest);

  expect(await answers(driver, 'resize {"desired_vcpus":2}', 'info Running')).toEqual([
    done('resize'),
    info('Running'), // with as many vCPUs as were asked for
  ]);
  await guest.eventually(`test -e ${CPU1} && echo 1 >${CPU1} && test $(nproc) = 2`);
  const added = { path: disk.path, readonly: true, id: 'clh_drive_1' };
  expect(await answers(driver, `put vm.add-disk ${JSON.stringify(added)}`)).toEqual([
    done('put', 200),
  ]);
  const [sum] = (await guest.eventually('test -b /dev/vdb && sha256sum /dev/vdb')).split(' ');
  expect(sum).toBe(await disk.imageSha256());
  expect(await answers(driver, 'remove-device clh_drive_1')).toEqual([done('remove-device')]);
  await guest.eventually('test ! -e /dev/vdb');

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
  await expectShared(guest);

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
