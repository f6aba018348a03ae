/** What Kata Containers' runtime of March 2020 did, call by call, with the client of that day. */
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { beforeAll, expect, test } from 'vitest';
import { kernelOf, QUIET } from '../compat/support/guests.ts';
import { VmmProcess } from '../compat/support/vmm-process.ts';
import { ClientDriver } from './client-driver.ts';
import { goClient } from './go-client.ts';

const MIB = 1024 * 1024;

let binary: string;

beforeAll(async () => {
  binary = await goClient('go-2020');
}, 900_000);

/** A pod's: whole objects, a list of one vsock, root on a read-only disk. */
function podConfig(folder: string) {
  const kernel = join(folder, 'vmlinux');
  writeFileSync(kernel, kernelOf(QUIET));
  const root = join(folder, 'root.img');
  writeFileSync(root, Buffer.alloc(2 * MIB));
  return {
    cpus: { boot_vcpus: 1, max_vcpus: 2 },
    memory: { size: 64 * MIB, file: '/dev/shm' },
    kernel: { path: kernel },
    cmdline: { args: 'root=/dev/vda1 panic=1 no_timer_check agent.log_vport=1025' },
    disks: [
      { path: root, readonly: true, num_queues: 1, queue_size: 128, wce: true, poll_queue: true },
    ],
    rng: { src: '/dev/urandom' },
    vsock: [{ cid: 3, sock: join(folder, 'clh.sock') }],
    serial: { mode: 'File', file: join(folder, 'serial.log') },
    console: { mode: 'Off' },
  };
}

const done = (step: string, status = 204) => ({ step, status });
const info = (state: string) => ({ step: 'info', status: 200, state });

test('a pod starts, gets a vCPU and a disk more, and stops by vmm.shutdown', async () => {
  await using vmm = await VmmProcess.start();
  await using driver = ClientDriver.run(binary, vmm.socket);

  const config = JSON.stringify(podConfig(vmm.folder));
  expect(
    await driver.answers('ping', `create ${config}`, 'info Created', 'boot', 'info Running'),
  ).toEqual([done('ping', 200), done('create'), info('Created'), done('boot'), info('Running')]);

  expect(await driver.answers('resize {"desired_vcpus":2}', 'info Running')).toEqual([
    done('resize'),
    info('Running'), // with as many vCPUs as were asked for
  ]);
  const disk = { path: join(vmm.folder, 'disk.img'), readonly: true, id: 'clh_drive_1' };
  writeFileSync(disk.path, Buffer.alloc(MIB));
  expect(
    await driver.answers(`put vm.add-disk ${JSON.stringify(disk)}`, `remove-device ${disk.id}`),
  ).toEqual([done('put', 200), done('remove-device')]);

  expect(await driver.answers('ping', 'vmm.shutdown')).toEqual([
    done('ping', 200),
    done('vmm.shutdown', 200), // the document says 204, but this is what every version answered
  ]);
  expect(await driver.finish()).toBe(0);
  expect(await vmm.exitCode()).toBe(0);
});
