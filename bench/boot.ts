/**
 * Boot of a real guest: Debian's kernel, from the request that starts it → its init, on a host that
 * can run it (test/host/README.md).
 *
 *     npx tsx bench/boot.ts [--devices | --client] [--peer NAME=PATH]... [--rounds N] [--json FILE]
 *
 * Subjects alternate within each round. All are started without a guest and told over a socket what
 * to do, so that each boot gives two times: since exec, and since vm.boot or QMP's cont. QEMU has
 * loaded everything by then; ours loads it after. Exits to KVM are counted besides: where the host
 * is emulated, they say more than times.
 *
 * With `--devices` all have a disk, a random number generator and a second console on PCI, and a
 * boot ends when the guest has loaded their drivers. With `--client` they have what clients of the
 * API give a VM: a root file system as persistent memory, a vsock, a network card, and room for as
 * much RAM as the host has.
 */
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { guestImages } from '../guest-images/images.ts';
import { mustExec, shellQuote } from '../test/host/exec.ts';
import type { KvmHost } from '../test/host/host.ts';
import { openHost } from '../test/host/open-host.ts';
import {
  type BootMachine,
  type BootSubject,
  type ClientDevices,
  cloudHypervisor,
  qemu,
} from './support/boot-subjects.ts';
import { placeOf } from './support/place.ts';
import { compileProbe } from './support/probe.ts';
import { add, type Goal, report, type Samples } from './support/record.ts';
import { benchArguments, type Peer } from './support/subjects.ts';

const withDevices = process.argv.includes('--devices');
const asClient = process.argv.includes('--client');
const REACHED = withDevices ? 'guest: ready' : 'guest: init reached';
const IMAGE = '/root/bench-boot.img';
const PMEM_MIB = 128;
const SOCKET = '/tmp/boot.sock';
const TIMEOUT_MS = 90_000;

const KERNELS = ['vmlinux', 'vmlinuz'] as const;
type Kernel = (typeof KERNELS)[number];

const exec = (kernel: Kernel) => `${kernel}: exec → init, ms`;
const asked = (kernel: Kernel) => `${kernel}: vm.boot or cont → init, ms`;
const exits = (kernel: Kernel) => `${kernel}: exits until then`;

const Q35 = qemu('QEMU q35', 'q35');
const MICROVM = qemu('QEMU microvm', 'microvm,isa-serial=on');

/** The microvm has no PCI. */
const QEMUS = withDevices || asClient ? [Q35] : [Q35, MICROVM];

const GOALS: Goal[] = KERNELS.flatMap((kernel) =>
  QEMUS.flatMap(({ name: subject }) =>
    asClient
      ? [{ measure: exec(kernel), limit: 1, times: subject }]
      : [
          { measure: asked(kernel), limit: 0.75, times: { measure: exec(kernel), subject } },
          { measure: asked(kernel), limit: 0.75, times: subject },
        ],
  ),
);

const directory = mkdtempSync(join(tmpdir(), 'boot-'));
const samples: Samples = new Map();

/** Ours, QEMU and the peers, all of them on the host. */
async function subjectsOn(host: KvmHost, peers: readonly Peer[]): Promise<BootSubject[]> {
  const dist = await host.stage(join(import.meta.dirname, '../dist'));
  const others: BootSubject[] = [];
  for (const { name, path } of peers) others.push(cloudHypervisor(name, await host.stage(path)));
  return [cloudHypervisor('ours', `${dist}/cloud-hypervisor`), ...QEMUS, ...others];
}

/** One for each kernel, but for that all the same. */
async function machinesOn(host: KvmHost): Promise<[Kernel, BootMachine][]> {
  const images = await guestImages();
  const initramfs = await host.stage(images.initramfs);
  const cmdline = 'console=ttyS0 quiet panic=-1';
  if (withDevices) await mustExec(host, `truncate -s 64M ${IMAGE}`);
  const disk = withDevices ? { disk: IMAGE } : {};
  const client = asClient ? { client: await clientDevices(host) } : {};
  const common = { cpus: 1, memoryMiB: 512, initramfs, cmdline, ...disk, ...client };
  const machines: [Kernel, BootMachine][] = [];
  for (const kernel of KERNELS)
    machines.push([kernel, { ...common, kernel: await host.stage(images[kernel]) }]);
  return machines;
}

async function clientDevices(host: KvmHost): Promise<ClientDevices> {
  await mustExec(host, `modprobe vhost_vsock && truncate -s ${PMEM_MIB}M ${IMAGE}`);
  const total = await mustExec(
    host,
    "awk '/MemTotal/ { print int($2 / 131072) * 128 }' /proc/meminfo",
  );
  const vsockSocket = '/tmp/boot-vsock.sock';
  return { pmem: IMAGE, pmemMiB: PMEM_MIB, ramMiBMax: Number(total), vsockSocket };
}

const host = await openHost();
try {
  const options = benchArguments(
    process.argv.slice(2).filter((word) => !['--devices', '--client'].includes(word)),
  );
  const probe = await host.stage(compileProbe(directory));
  const subjects = await subjectsOn(host, options.peers);
  const machines = await machinesOn(host);
  await host.exec('mountpoint -q /sys/kernel/debug || mount -t debugfs debugfs /sys/kernel/debug');

  const measure = async (subject: BootSubject, kernel: Kernel, machine: BootMachine) => {
    const { argv, requests } = subject.boot(SOCKET, machine);
    await mustExec(host, 'rm -f /tmp/boot-vsock.sock*');
    const command = [probe, 'text', REACHED, SOCKET, ...requests, '--', ...argv];
    const said = await mustExec(host, command.map(shellQuote).join(' '), { timeoutMs: TIMEOUT_MS });
    const [execNs = 0, askedNs = 0, exitCount = 0] = said.split(' ').map(Number);
    add(samples, exec(kernel), subject.name, execNs / 1e6);
    add(samples, asked(kernel), subject.name, askedNs / 1e6);
    add(samples, exits(kernel), subject.name, exitCount);
  };
  const round = async () => {
    for (const [kernel, machine] of machines)
      for (const subject of subjects) await measure(subject, kernel, machine);
  };
  await round(); // for the page cache
  samples.clear();
  for (let i = 0; i < options.rounds; i++) await round();
  report('boot', samples, GOALS, options.json, await placeOf(host));
} finally {
  rmSync(directory, { recursive: true });
  await host.close();
}
