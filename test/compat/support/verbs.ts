/** What several tests have a VM do. */
import { expect } from 'vitest';
import type { Peer } from './peer.ts';
import type { VmmProcess } from './vmm-process.ts';

export async function done(vmm: VmmProcess, ...verbs: string[]): Promise<void> {
  for (const verb of verbs) {
    const { status, text } = await vmm.put(verb);
    expect(status, text).toBe(204);
  }
}

/** Types at a guest that says `up ` and echoes, and boots it again: by a verb, and by itself. */
export async function carriesBytesOverReboots(vmm: VmmProcess, peer: Peer): Promise<void> {
  await done(vmm, 'vm.boot');
  await peer.shows('up ');
  peer.type('a\r\x03b');
  await peer.shows('up a\r\x03b');
  await done(vmm, 'vm.reboot');
  await peer.shows('up a\r\x03bup ');
  peer.type('R'); // the guest resets itself
  await peer.shows('up a\r\x03bup up ');
  peer.type('c');
  await peer.shows('up a\r\x03bup up c');
}
