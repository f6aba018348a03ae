/** A TCP port of 127.0.0.1 for a program that must be told one. */
import { once } from 'node:events';
import { createServer } from 'node:net';

/** A port that nobody listened on a moment ago; the kernel picks them far apart. */
export async function freePort(): Promise<number> {
  const server = createServer().listen(0, '127.0.0.1');
  await once(server, 'listening');
  const address = server.address();
  server.close();
  await once(server, 'close');
  if (address === null || typeof address === 'string') throw new Error('A TCP port is a number');
  return address.port;
}
