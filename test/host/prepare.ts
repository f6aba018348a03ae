/** Makes everything that the end-to-end tests boot; does nothing where it is there already. */
import { readFile, truncate, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { cacheDir, cached, contentKey, lock } from '../../guest-images/cache.ts';
import { progress, StepError } from '../../guest-images/command.ts';
import { guestImages } from '../../guest-images/images.ts';
import { initramfs } from '../../guest-images/initramfs.ts';
import { HOST_BOOT_MODULES } from '../../guest-images/modules.ts';
import { hasHardwareVirtualisation } from './local-host.ts';
import { emulator, type Qemu } from './qemu.ts';
import { rootImage } from './root-image.ts';

/** What the emulated host is started with. */
export interface HostImages {
  qemu: Qemu;
  kernel: string;
  initramfs: string;
  root: string;
  /** For an NVMe drive in an IOMMU group of its own, to be handed to a guest. */
  nvme: string;
}

/** The parts of the emulated host; minutes the first time, a second or two when cached. */
export async function hostImages(): Promise<HostImages> {
  // Of all that runs at the same time, one makes things and the others wait and find them made.
  await using _lock = await lock('prepare');
  const images = await guestImages();
  const text = (name: string) => readFile(new URL(name, import.meta.url), 'utf8');
  const init = await text('init-root');
  const files = {
    'opt/host-init': await text('host-init'),
    'opt/agent.mjs': await text('agent.mjs'),
    'opt/frames.mjs': await text('frames.mjs'),
  };
  const contents = { kernel: images, init, modules: HOST_BOOT_MODULES, files };
  return {
    qemu: await emulator(),
    kernel: images.vmlinux, // nothing to decompress
    initramfs: await initramfs('host', contents),
    root: await rootImage(images),
    nvme: await emptyDisk('nvme', 64 * 1024 * 1024),
  };
}

async function emptyDisk(name: string, sizeBytes: number): Promise<string> {
  const entry = await cached(`disk-${name}`, contentKey(`${sizeBytes}`), async (draft) => {
    await writeFile(join(draft, 'disk.img'), '');
    await truncate(join(draft, 'disk.img'), sizeBytes);
  });
  return join(entry, 'disk.img');
}

async function main(): Promise<void> {
  const started = Date.now();
  const { release } = await guestImages();
  progress(`Guest kernel ${release} and initramfs are in ${cacheDir()}`);
  if (await hasHardwareVirtualisation()) {
    progress('This machine has hardware virtualisation: no emulated host is needed');
  } else {
    const { qemu } = await hostImages();
    progress(`The emulated host is ready, with QEMU ${qemu.version}`);
  }
  progress(`Done in ${((Date.now() - started) / 1000).toFixed(1)} s`);
}

if (process.argv[1] === import.meta.filename) {
  await main().catch((error: unknown) => {
    console.error(error instanceof StepError ? `[prepare] ${error.message}` : error);
    process.exitCode = 1;
  });
}
