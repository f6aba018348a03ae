import { expect, test } from 'vitest';
import { mustExec } from '../host/exec.ts';
import { Guest } from './support/guest.ts';
import { hostPort, ownPort, VSOCK_STREAM, Vsock } from './support/vsock.ts';

const PORT = 7000;
const TIMEOUT_MS = 100_000;
/** More than is on the way at a time, so that both ends wait for each other now and then. */
const STREAM_BYTES = 512 * 1024 + 5;

/** A program that listens is told first; the other end tries again until it does. */
async function streams(
  vsock: Vsock,
  guest: Guest,
  from: 'host' | 'guest',
  count: number,
  [hostOrder, guestOrder] = ['both', 'both'],
): Promise<void> {
  const said = await Promise.all(
    from === 'host'
      ? [
          guest.run(
            `vsock-stream serve ${ownPort(PORT)} ${count} ${STREAM_BYTES} ${guestOrder}`,
            TIMEOUT_MS,
          ),
          vsock.run(`dial ${vsock.guestPort(PORT)} ${count} ${STREAM_BYTES} ${hostOrder}`),
        ]
      : [
          vsock.run(`serve ${vsock.ownPort(PORT)} ${count} ${STREAM_BYTES} ${hostOrder}`),
          guest.run(
            `vsock-stream dial ${hostPort(PORT)} ${count} ${STREAM_BYTES} ${guestOrder}`,
            TIMEOUT_MS,
          ),
        ],
  );
  const all = `${count} streams of ${STREAM_BYTES} bytes each way`;
  expect(said).toEqual([all, all]);
}

test('a hundred streams at once carry every byte, and who has shut its half gets all of the other', async () => {
  await using vsock = await Vsock.make();
  await using guest = await Guest.boot({ cpus: 2, args: vsock.args, programs: VSOCK_STREAM });

  await streams(vsock, guest, 'host', 100);
  await streams(vsock, guest, 'guest', 100);
  for (const from of ['host', 'guest'] as const) {
    await streams(vsock, guest, from, 1, ['receive-first', 'send-first']);
    await streams(vsock, guest, from, 1, ['send-first', 'receive-first']);
  }
});

test('where nobody listens, who connects is turned away, and so is who comes before the driver', async () => {
  await using vsock = await Vsock.make();
  await using guest = await Guest.start({ args: vsock.args, programs: VSOCK_STREAM });
  const knock = `knock ${vsock.guestPort(PORT)}`;

  await mustExec(vsock.host, `until [ -S ${vsock.socket} ]; do sleep 0.05; done`);
  const early = await vsock.run(knock, 5000);
  await guest.ready();
  const late = await vsock.run(knock, 5000);
  const outwards = await guest.run(`vsock-stream knock ${hostPort(PORT)}`);

  expect([early, late, outwards]).toEqual(Array(3).fill('Connection reset by peer'));
  await streams(vsock, guest, 'host', 1);
});

test('the socket serves the guest after a reboot', async () => {
  await using vsock = await Vsock.make();
  await using guest = await Guest.boot({ args: vsock.args, programs: VSOCK_STREAM });
  await guest.run(`vsock-stream echo ${ownPort(PORT + 1)}`);
  const client = vsock.run(`ask ${vsock.guestPort(PORT + 1)} 20`).catch((error) => String(error));

  expect((await guest.api.put('vm.reboot')).status).toBe(204);
  await guest.ready();

  // It is not kept waiting, whether it came in before the reboot or during it.
  expect(await client).toMatch(/\n(exchange|connect): /);
  await streams(vsock, guest, 'host', 2);
  await streams(vsock, guest, 'guest', 2);
});

test('a VMM that was killed leaves nothing that keeps the next from starting', async () => {
  await using vsock = await Vsock.make();
  const options = { args: vsock.args, programs: VSOCK_STREAM };
  await using killed = await Guest.boot(options);
  killed.vmm.kill('SIGKILL');
  await killed.exited;
  await mustExec(vsock.host, `[ -S ${vsock.socket} ]`);

  await using guest = await Guest.boot(options);

  await streams(vsock, guest, 'host', 1);
});
