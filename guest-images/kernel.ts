/** Debian's cloud kernel: the bzImage, the ELF inside it, and its modules. */
import { mkdir, readdir, readFile, rename, rm, stat, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { cached, contentKey } from './cache.ts';
import { progress, run, StepError } from './command.ts';
import { findPackage, openSuite, type Package, type Suite, unpack } from './debian.ts';

export interface Kernel {
  /** As `uname -r` prints it. */
  release: string;
  /** bzImage. */
  vmlinuz: string;
  /** ELF, with a PVH note. */
  vmlinux: string;
  /** `lib/modules/RELEASE`. */
  moduleTree: string;
  /** Changes when any of the files above does. */
  key: string;
}

/** Changed by hand when `build` makes something else out of the same package. */
const LAYOUT = '1';

export async function kernel(): Promise<Kernel> {
  const source = await kernelPackage();
  const key = contentKey(LAYOUT, source.name, source.version);
  const entry = await cached('kernel', key, (draft) => build(source, draft));
  const release = source.name.replace('linux-image-', '');
  return {
    release,
    vmlinuz: join(entry, 'vmlinuz'),
    vmlinux: join(entry, 'vmlinux'),
    moduleTree: join(entry, 'modules'),
    key,
  };
}

/** The release of Debian whose cloud kernel has the driver of virtio-iommu; 12's has none. */
const IOMMU_SUITE = 'trixie';

/** A kernel for guests with a virtio-iommu. There is no ELF: it is compressed in another way. */
export async function iommuKernel(): Promise<Omit<Kernel, 'vmlinux'>> {
  const suite = await openSuite(IOMMU_SUITE);
  const source = await kernelPackage(suite);
  const key = contentKey(LAYOUT, suite.name, source.name, source.version);
  const entry = await cached('kernel-iommu', key, (draft) => unpackKernel(source, draft, suite));
  const release = source.name.replace('linux-image-', '');
  return { release, vmlinuz: join(entry, 'vmlinuz'), moduleTree: join(entry, 'modules'), key };
}

/** The package with the files, which the package that people install merely depends on. */
async function kernelPackage(suite?: Suite): Promise<Package> {
  const { depends } = await findPackage('linux-image-cloud-amd64', suite);
  const [, name, version] = /(linux-image-\S+) \(= (\S+)\)/.exec(depends) ?? [];
  if (name === undefined || version === undefined)
    throw new StepError('Find the kernel', `it depends on ${depends}`, 'use Debian 12 or later');
  return { name, version, depends: '' };
}

/** The image and the modules, which newer ones compress. */
async function unpackKernel(source: Package, draft: string, suite?: Suite): Promise<void> {
  progress(`Downloading ${source.name} ${source.version}`);
  const tree = join(draft, 'package');
  await mkdir(tree);
  await unpack(source, tree, suite);
  const boot = join(tree, 'boot');
  const image = (await readdir(boot)).find((file) => file.startsWith('vmlinuz-')) ?? '';
  await rename(join(boot, image), join(draft, 'vmlinuz'));
  const isMerged = await stat(join(tree, 'usr/lib/modules')).then(Boolean, () => false);
  const all = join(tree, isMerged ? 'usr/lib/modules' : 'lib/modules');
  const [release = ''] = await readdir(all);
  await rename(join(all, release), join(draft, 'modules'));
  await rm(tree, { recursive: true });
  await run(['find', join(draft, 'modules'), '-name', '*.ko.xz', '-exec', 'xz', '-d', '{}', '+'], {
    step: 'Decompress the modules',
    remedy: 'install the package xz-utils',
  });
}

async function build(source: Package, draft: string): Promise<void> {
  await unpackKernel(source, draft);
  const compressed = lz4Payload(await readFile(join(draft, 'vmlinuz')));
  const elf = await run(['lz4', '-dc'], {
    step: 'Decompress the kernel',
    remedy: 'install the package lz4',
    input: compressed.frame,
  });
  if (elf.length !== compressed.sizeBytes)
    throw new StepError(
      'Decompress the kernel',
      `${elf.length} bytes, not ${compressed.sizeBytes}`,
      'report it: the image of this kernel is built in another way',
    );
  await writeFile(join(draft, 'vmlinux'), elf);
}

// Offsets in a bzImage, Documentation/arch/x86/boot.rst.
const SETUP_SECTORS = 0x1f1;
const PAYLOAD_OFFSET = 0x248;
const PAYLOAD_LENGTH = 0x24c;
const SECTOR_BYTES = 512;
/** What an LZ4 frame of the legacy format starts with; the kernel uses no other. */
const LZ4_LEGACY_MAGIC = 0x184c2102;

/** The compressed kernel in a bzImage, and its size once decompressed, which follows it. */
export function lz4Payload(bzImage: Buffer): { frame: Buffer; sizeBytes: number } {
  const setupBytes = (bzImage.readUInt8(SETUP_SECTORS) + 1) * SECTOR_BYTES;
  const start = setupBytes + bzImage.readUInt32LE(PAYLOAD_OFFSET);
  const end = start + bzImage.readUInt32LE(PAYLOAD_LENGTH) - 4;
  if (bzImage.readUInt32LE(start) !== LZ4_LEGACY_MAGIC)
    throw new StepError(
      'Find the payload of the kernel',
      'it is not compressed with LZ4',
      'use the cloud kernel of Debian 12',
    );
  return { frame: bzImage.subarray(start, end), sizeBytes: bzImage.readUInt32LE(end) };
}
