/** The images that every end-to-end test boots. */
import { readFile } from 'node:fs/promises';
import { initramfs } from './initramfs.ts';
import { type Kernel, kernel } from './kernel.ts';
import { GUEST_MODULES } from './modules.ts';

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
