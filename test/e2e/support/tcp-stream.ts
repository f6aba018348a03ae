/** Random bytes over one TCP connection between a guest and the host, counted at both ends. */
import { expect } from 'vitest';
import { linuxProgram } from '../../support/linux-program.ts';
import type { Guest } from './guest.ts';
import type { Network } from './network.ts';

const program = linuxProgram('test/e2e/programs/tcp-stream.c');
const TIMEOUT_MS = 200_000;

/** To be among the guest's programs. */
export const TCP_STREAM = { 'tcp-stream': program };

const onHost = async (network: Network, args: string): Promise<string> =>
  network.run(`${await network.host.stage(program)} ${args}`, { timeoutMs: TIMEOUT_MS });

/** Both ends saw the same, and all of it. */
function compare(sent: string, received: string, sizeBytes: number): void {
  expect(received.trim()).toBe(sent.trim());
  expect(received).toContain(`${sizeBytes} bytes`);
}

/** Sends; what comes out must be what went in. */
export async function stream(
  network: Network,
  guest: Guest,
  from: 'host' | 'guest',
  sizeBytes: number,
  nic = 0,
): Promise<void> {
  const { hostAddress, guestAddress } = network.nics[nic] ?? {};
  const inGuest = (args: string) => guest.run(`tcp-stream ${args}`, TIMEOUT_MS);
  const [sent, received] = await (from === 'guest'
    ? Promise.all([inGuest(`send ${hostAddress} ${sizeBytes}`), onHost(network, 'receive')])
    : Promise.all([onHost(network, `send ${guestAddress} ${sizeBytes}`), inGuest('receive')]));
  compare(sent, received, sizeBytes);
}

/** Has a guest receive by its first NIC, send by its second, and run a command, all at once. */
export async function streamBothWays(
  network: Network,
  guest: Guest,
  sizeBytes: number,
  command: string,
): Promise<void> {
  const [inwards, outwards] = network.nics;
  const work = [
    'tcp-stream receive >/tmp/received',
    `tcp-stream send ${outwards?.hostAddress} ${sizeBytes} >/tmp/sent`,
    command,
  ];
  const inGuest = `(${work.map((part) => `(${part}) &`).join(' ')} wait); cat /tmp/received /tmp/sent`;
  const [sentIn, receivedOut, said] = await Promise.all([
    onHost(network, `send ${inwards?.guestAddress} ${sizeBytes}`),
    onHost(network, 'receive'),
    guest.run(inGuest, TIMEOUT_MS),
  ]);
  const [receivedIn = '', sentOut = ''] = said.trim().split('\n');
  compare(sentIn, receivedIn, sizeBytes);
  compare(sentOut, receivedOut, sizeBytes);
}
