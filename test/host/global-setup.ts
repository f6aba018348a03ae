/** Keeps one host up for a whole run of end-to-end tests, however many files and processes. */
import { passOnGuestImages } from '../../guest-images/images.ts';
import { hasHardwareVirtualisation } from './local-host.ts';
import { attach, startHost } from './open-host.ts';
import { developerStatePath, ownStatePath, useStatePath } from './state-file.ts';
import type { HostSupervisor } from './supervisor.ts';

let supervisor: HostSupervisor | undefined;

export async function setup(): Promise<void> {
  await passOnGuestImages();
  if (await hasHardwareVirtualisation()) return;
  if (await attach(developerStatePath())) {
    console.log('[host] Tests run on the emulated host that `npm run host` keeps up');
    return;
  }
  const path = ownStatePath();
  useStatePath(path); // the processes of the test files inherit it
  supervisor = await startHost(path);
}

export async function teardown(): Promise<void> {
  await supervisor?.close();
}
