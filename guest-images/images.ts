/** The images that every end-to-end test boots. */
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { initramfs } from './initramfs.ts';
import { iommuKernel, type Kernel, kernel } from './kernel.ts';
import { GUEST_MODULES, IOMMU_MODULE, notBuiltIn } from './modules.ts';

export interface GuestImages extends Kernel {
  /** Root file system in memory: busybox and the drivers of `GUEST_MODULES`. */
  initramfs: string;
}

/** Hands the answer down to the processes of a test run, so that each need not ask apt again. */
const VARIABLE = 'GUEST_IMAGES';

let made: Promise<GuestImages> | undefined;

/** Paths of the images; makes those that are not in the cache. */
export function guestImages(): Promise<GuestImages> {
  made ??= inherited() ?? make();
  return made;
}

/** Spares the processes that this one starts from now on the look-up. */
export async function passOnGuestImages(): Promise<void> {
  process.env[VARIABLE] = JSON.stringify(await guestImages());
}

function inherited(): Promise<GuestImages> | undefined {
  const text = process.env[VARIABLE];
  return text === undefined ? undefined : Promise.resolve(JSON.parse(text));
}

async function make(): Promise<GuestImages> {
  const cloud = await kernel();
  const init = await readFile(new URL('init', import.meta.url), 'utf8');
  const modules = GUEST_MODULES;
  return { ...cloud, initramfs: await initramfs('guest', { kernel: cloud, init, modules }) };
}

/** For guests with a virtio-iommu: its driver comes before those of the devices behind it. */
export async function iommuImages(): Promise<Pick<GuestImages, 'vmlinuz' | 'initramfs'>> {
  const newer = await iommuKernel();
  const init = await readFile(new URL('init', import.meta.url), 'utf8');
  const builtIn = await readFile(join(newer.moduleTree, 'modules.builtin'), 'utf8');
  const modules = notBuiltIn(builtIn, [IOMMU_MODULE, ...GUEST_MODULES]);
  const packed = await initramfs('guest-iommu', { kernel: newer, init, modules });
  return { vmlinuz: newer.vmlinuz, initramfs: packed };
}
