/** Every client takes a VM through its life, as far as it knows the calls. */
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { beforeAll, describe, expect, test } from 'vitest';
import { guestConfig } from '../compat/support/guests.ts';
import { VmmProcess } from '../compat/support/vmm-process.ts';
import { ClientDriver, takes } from './client-driver.ts';
import { goClient } from './go-client.ts';
import { rustClient } from './rust-client.ts';
import { typescriptClient } from './typescript-client.ts';

/** Generators, compilers and their downloads, where the cache has none. */
const MAKING_MS_MAX = 900_000;

const MIB = 1024 * 1024;

type Command = (socket: string) => readonly string[];

const CLIENTS: Record<string, () => Promise<Command>> = {
  'Go, 2026': async () => {
    const binary = await goClient('go-2026');
    return (socket) => [binary, socket];
  },
  'Rust, 0.3.3': async () => {
    const binary = await rustClient();
    return (socket) => [binary, '0.3', socket];
  },
  'Rust, 0.6.0': async () => {
    const binary = await rustClient();
    return (socket) => [binary, '0.6', socket];
  },
  TypeScript: async () => {
    const script = await typescriptClient();
    return (socket) => [process.execPath, script, socket];
  },
};

/** What a client of today sends when it states all that it can. */
const configOf = (vmm: VmmProcess) => ({
  ...guestConfig(vmm.folder),
  cpus: { boot_vcpus: 1, max_vcpus: 2, topology: null },
  memory: { size: 64 * MIB, hotplug_size: 256 * MIB, shared: true },
  rng: { src: '/dev/urandom' },
  console: { mode: 'Off' },
});

describe.each(Object.entries(CLIENTS))('%s', (_, make) => {
  let command: Command;

  // Making it takes longer than a test may.
  beforeAll(async () => {
    command = await make();
  }, MAKING_MS_MAX);

  test('takes a VM through its whole life', async () => {
    await using vmm = await VmmProcess.start();
    await using driver = ClientDriver.run(...command(vmm.socket));
    const { topology: _, ...cpus } = configOf(vmm).cpus;
    const config = { ...configOf(vmm), cpus };

    await takes(driver, 'ping', `create ${JSON.stringify(config)}`);
    const created = await takes(driver, 'info Created');
    expect(created?.config).toMatchObject(config);
    await takes(driver, 'boot', 'info Running', 'counters', 'nmi', 'power-button');
    const resized = await takes(
      driver,
      'resize {"desired_vcpus":2}',
      `resize {"desired_ram":${192 * MIB}}`,
      'info Running',
    );
    expect(resized?.config).toMatchObject({
      cpus: { boot_vcpus: 2 },
      memory: { size: 192 * MIB },
    });
    const path = join(vmm.folder, 'disk.img');
    writeFileSync(path, Buffer.alloc(MIB));
    const disk = { path, readonly: true, image_type: 'Raw', id: 'added' };
    const added = await takes(driver, `add-disk ${JSON.stringify(disk)}`);
    expect(added?.device).toEqual({ id: 'added', bdf: expect.stringMatching(/^0000:00:..\.0$/) });
    expect((await takes(driver, 'info Running'))?.config).toMatchObject({
      disks: [{ path, readonly: true, id: 'added' }],
    });
    await takes(driver, 'remove-device added');
    await takes(driver, 'pause', 'info Paused', 'resume', 'info Running');
    const rebooted = await takes(driver, 'reboot', 'info Running');
    expect(rebooted?.config).toMatchObject({ cpus: { boot_vcpus: 2 } });
    await takes(driver, 'shutdown', 'info Created', 'boot', 'info Running', 'delete');
    await takes(driver, `create ${JSON.stringify(config)}`, 'info Created', 'vmm.shutdown');

    expect(await driver.finish()).toBe(0);
    expect(await vmm.exitCode()).toBe(0);
  });

  test('is told of a refusal, with the texts', async () => {
    await using vmm = await VmmProcess.start();
    await using driver = ClientDriver.run(...command(vmm.socket));
    const config = { ...guestConfig(vmm.folder), payload: { kernel: join(vmm.folder, 'none') } };

    await takes(driver, 'ping');
    const { error } = await driver.take(`create ${JSON.stringify(config)}`);

    expect(error).toContain('Cannot open kernel file');
  });
});

test.each([1, 2])('Go, 2026: a card comes with %i files of its tap', async (count) => {
  const binary = await goClient('go-2026');
  await using vmm = await VmmProcess.start();
  await using driver = ClientDriver.run('/usr/bin/unshare', '-n', binary, vmm.socket);
  const config = { ...guestConfig(vmm.folder), cpus: { boot_vcpus: 2, max_vcpus: 2 } };
  await takes(driver, 'ping', `create ${JSON.stringify(config)}`, 'boot');

  const added = await takes(driver, `add-net ${count} tap0 {"id":"added"}`);

  expect(added?.device).toEqual({ id: 'added', bdf: expect.stringMatching(/^0000:00:..\.0$/) });
  expect((await takes(driver, 'info Running'))?.config).toMatchObject({
    net: [{ id: 'added', num_queues: 2 * count }],
  });
});
