/** Devices of a guest that come and go, and work meanwhile. */
import { expect } from 'vitest';
import type { Guest } from './guest.ts';

const POLL = { timeout: 60_000, interval: 100 };
/** Of a guest that works on an emulated host. */
const PROBE_MS_MAX = 60_000;
const ROUNDS_MS_MAX = 90_000;

/** A device to plug, and shell commands of the guest. */
export interface Plugged {
  /** As in `vm.add-KIND`; its id, too. */
  kind: string;
  body: object;
  /** Makes it usable, once its driver has it. */
  open: string;
  /** Moves bytes through it. */
  use: string;
  /** After the last use. */
  close: string;
  /** Makes the host ready for it, once more if it was there before. */
  prepare?: () => Promise<void>;
}

/** @returns its folder in the guest's sysfs, once a driver has it. */
export async function plug(
  guest: Guest,
  { kind, body, open, use, prepare }: Plugged,
): Promise<string> {
  await prepare?.();
  const added = await guest.api.put(`vm.add-${kind}`, { ...body, id: kind });
  expect([kind, added.status, added.json]).toEqual([
    ...[kind, 200],
    { id: kind, bdf: expect.stringMatching(/^000\d:00:[01][0-9a-f]\.0$/) },
  ]);
  const at = `/sys/bus/pci/devices/${(added.json as { bdf: string }).bdf}`;
  // DRIVER_OK: the link to the driver is there before it has set anything up.
  await guest.eventually(`grep -q 'f$' ${at}/virtio*/status`, PROBE_MS_MAX);
  await guest.eventually(open);
  await guest.run(`{ ${use}; } >/dev/null`);
  return at;
}

/** Resolves when neither the guest nor the host has anything of it. */
export async function unplug(guest: Guest, kind: string, at: string): Promise<void> {
  expect((await guest.api.put('vm.remove-device', { id: kind })).status).toBe(204);
  await guest.eventually(`! test -e ${at}`);
  const isThere = async () =>
    kind in ((await guest.api.get('vm.info')).json as { device_tree: object }).device_tree;
  await expect.poll(isThere, POLL).toBe(false);
}

/** Uses a device again and again, until that fails or it is asked to stop. */
export const load = ({ kind, use }: Plugged): string =>
  `(while ! test -e /tmp/stop-${kind}; do { ${use}; } || break; echo >>/tmp/rounds-${kind}; ` +
  `usleep 300000; done; touch /tmp/ended-${kind}) >/dev/null 2>&1 &`;

export const stop = async (guest: Guest, { kind, close }: Plugged) => {
  await guest.run(`touch /tmp/stop-${kind}`);
  await guest.eventually(`test -e /tmp/ended-${kind} && ${close}`, ROUNDS_MS_MAX);
  await guest.run(`rm /tmp/stop-${kind} /tmp/ended-${kind}`);
};

/** Each of them has got on since the last time, and none has failed. */
export async function workOn(guest: Guest, kinds: readonly Plugged[]): Promise<void> {
  const rounds = kinds.map(({ kind }) => `/tmp/rounds-${kind}`);
  await guest.run(`rm -f ${rounds.join(' ')}`);
  const all = rounds.map((file) => `test -s ${file}`);
  await guest.eventually(all.join(' && '), ROUNDS_MS_MAX);
  expect(await guest.run('ls /tmp | grep ended || true')).toBe('');
}
