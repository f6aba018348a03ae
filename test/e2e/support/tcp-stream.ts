/** Random bytes over one TCP connection between a guest and the host, counted at both ends. */
import { expect } from 'vitest';
import { linuxProgram } from '../../support/linux-program.ts';
import type { Guest } from './guest.ts';
import type { Network } from './network.ts';

const program = linuxProgram('test/e2e/programs/tcp-stream.c');
const TIMEOUT_MS = 110_000;

/** To be among the guest's programs. */
export const TCP_STREAM = { 'tcp-stream': program };

/** Sends; what comes out must be what went in. */
export async function stream(
  network: Network,
  guest: Guest,
  from: 'host' | 'guest',
  sizeBytes: number,
  nic = 0,
): Promise<void> {
  const { hostAddress, guestAddress } = network.nics[nic] ?? {};
  const there = await network.host.stage(program);
  const onHost = (args: string) => network.run(`${there} ${args}`, { timeoutMs: TIMEOUT_MS });
  const inGuest = (args: string) => guest.run(`tcp-stream ${args}`, TIMEOUT_MS);
  const [sent, received] = await (from === 'guest'
    ? Promise.all([inGuest(`send ${hostAddress} ${sizeBytes}`), onHost('receive')])
    : Promise.all([onHost(`send ${guestAddress} ${sizeBytes}`), inGuest('receive')]));
  expect(received.trim()).toBe(sent.trim());
  expect(received).toContain(`${sizeBytes} bytes`);
}
