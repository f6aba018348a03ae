/** Opens the place where a test reads and types, whichever of them the machine has. */
import type { Duplex, Readable, Writable } from 'node:stream';
import { setTimeout as sleep } from 'node:timers/promises';
import type { HostProcess, KvmHost } from '../../host/host.ts';
import type { Machine } from './vmm.ts';

export interface TerminalStreams {
  output: Readable;
  input?: Writable;
  close(): void;
}

/** Longest from the start of a VMM to its console socket. */
const SOCKET_TIMEOUT_MS = 20_000;
const POLL_MS = 50;

export async function openTerminal(
  host: KvmHost,
  vmm: HostProcess,
  { terminal, terminalPath }: Machine,
): Promise<TerminalStreams> {
  if (terminal === 'serial-file') return follow(host, terminalPath);
  if (terminal !== 'serial-socket')
    return { output: vmm.stdout, input: vmm.stdin, close: () => {} };
  const socket = await connectOnceThere(host, terminalPath);
  socket.on('error', () => {}); // the VMM's exit says more
  return { output: socket, input: socket, close: () => socket.destroy() };
}

/** What is in a file, and what comes to it, though it may be made or truncated meanwhile. */
async function follow(host: KvmHost, path: string): Promise<TerminalStreams> {
  const tail = await host.spawn(['tail', '-n', '+1', '-s', '0.1', '-F', path]);
  tail.stderr.resume(); // it complains as long as there is no file
  return { output: tail.stdout, close: () => tail.kill('SIGKILL') };
}

async function connectOnceThere(host: KvmHost, path: string): Promise<Duplex> {
  const deadline = Date.now() + SOCKET_TIMEOUT_MS;
  for (;;) {
    try {
      return await host.connect(path);
    } catch (error) {
      const { code } = error as NodeJS.ErrnoException;
      const early = code === 'ENOENT' || code === 'ECONNREFUSED';
      if (!early || Date.now() > deadline) throw error;
    }
    await sleep(POLL_MS);
  }
}
