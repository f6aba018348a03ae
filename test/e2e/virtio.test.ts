import { expect, test } from 'vitest';
import { Guest } from './support/guest.ts';

const LOGIN_TIMEOUT_MS = 30_000;

test('a guest draws random numbers, and a user logs in on hvc0', async () => {
  await using guest = await Guest.boot({ terminal: 'virtio-tty' });
  const draw = 'dd if=/dev/hwrng bs=32 count=1 2>/dev/null | od -An -tx1';

  expect(await guest.run('cat /sys/class/misc/hw_random/rng_current')).toBe('virtio_rng.0');
  const [first, second] = [await guest.run(draw), await guest.run(draw)];

  expect(first.replaceAll(/\s/g, '')).toMatch(/^[0-9a-f]{64}$/);
  expect(second).not.toBe(first);

  await guest.run('echo root::0:0:root:/root:/bin/sh >/etc/passwd; echo root:x:0: >/etc/group');

  guest.console.type('exec getty -L hvc0 115200 dumb\n');
  await guest.waitFor(/login: /, LOGIN_TIMEOUT_MS);
  guest.console.type('root\n');
  await guest.waitFor(/# /, LOGIN_TIMEOUT_MS);
  guest.console.type('echo "$(tty) is mine"\n');

  await guest.waitFor(/\/dev\/hvc0 is mine/, LOGIN_TIMEOUT_MS);
});
