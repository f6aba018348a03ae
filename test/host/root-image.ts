/** The disk of the emulated host: Debian, the tools that tests use, kernel modules and node. */
import { constants, existsSync } from 'node:fs';
import { copyFile, cp, mkdir, realpath, rm, stat, symlink } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { cached, contentKey } from '../../guest-images/cache.ts';
import { progress, run } from '../../guest-images/command.ts';
import { archive } from '../../guest-images/debian.ts';
import type { Kernel } from '../../guest-images/kernel.ts';
import { debootstrap } from './qemu.ts';

/** The release whose QEMU 7.2 is the peer in benches, whatever this machine runs. */
const SUITE = 'bookworm';

const PACKAGES = [
  'acpica-tools', // iasl, acpiexec
  'curl',
  'dosfstools',
  'e2fsprogs',
  'fio',
  'iperf3',
  'iproute2',
  'iputils-ping',
  'kmod',
  'pciutils',
  'procps',
  'python3-minimal',
  'qemu-system-x86', // a peer, and virtiofsd from its qemu-system-common
  'qemu-utils', // qemu-img, qemu-storage-daemon
  'socat',
  'strace',
  'util-linux',
];

/** The file has holes: only what tests write takes space, and that in QEMU's own snapshot. */
const SIZE = '8G';

/** Changed by hand when `build` makes something else out of the same parts. */
const LAYOUT = '1';

/** @returns the path of an ext4 image, in the cache. */
export async function rootImage(kernel: Kernel): Promise<string> {
  const { size } = await stat(process.execPath);
  const node = `${process.version} ${size}`;
  const key = contentKey(LAYOUT, SUITE, PACKAGES.join(), SIZE, kernel.key, node);
  const entry = await cached('host-root', key, async (draft) => {
    progress('Installing the system of the emulated host (about two minutes)');
    const tree = join(draft, 'tree');
    await mkdir(tree);
    const { site } = await archive();
    await debootstrap({ suite: SUITE, include: PACKAGES.join() }, tree, site);
    await addModules(kernel, tree);
    await addNode(tree);
    await pack(tree, join(draft, 'root.img'));
  });
  return join(entry, 'root.img');
}

async function addModules(kernel: Kernel, tree: string): Promise<void> {
  const modules = join(tree, 'lib/modules', kernel.release);
  await cp(kernel.moduleTree, modules, { recursive: true });
  await run(['chroot', tree, 'depmod', '-a', kernel.release], {
    step: 'Index the kernel modules of the emulated host',
    remedy: 'run as root',
  });
}

/** The node of this machine, with those libraries that the system of the host lacks. */
async function addNode(tree: string): Promise<void> {
  const node = await realpath(process.execPath);
  const remedy = 'use a node that runs on Debian 12 (glibc 2.36), such as the official builds';
  await copyFile(node, join(tree, 'usr/bin/node'), constants.COPYFILE_FICLONE);
  await symlink('/usr/bin/node', join(tree, 'usr/local/bin/node'));
  const listed = await run(['ldd', node], { step: 'List the libraries of node', remedy });
  for (const [, library = ''] of listed.toString().matchAll(/=> (\/\S+)/g)) {
    const copy = join(tree, library);
    if (existsSync(copy)) continue;
    await mkdir(dirname(copy), { recursive: true });
    await copyFile(library, copy);
  }
  await run(['chroot', tree, 'node', '-e', '0'], {
    step: 'Try node in the system of the emulated host',
    remedy,
  });
}

async function pack(tree: string, image: string): Promise<void> {
  progress('Packing the system of the emulated host');
  const remedy = 'install the package e2fsprogs, check the free space of the cache directory';
  await rm(join(tree, 'var/cache/apt'), { recursive: true, force: true });
  await run(['mke2fs', '-q', '-t', 'ext4', '-m', '0', '-d', tree, image, SIZE], {
    step: `Make ${image}`,
    remedy,
  });
  await rm(tree, { recursive: true });
}
