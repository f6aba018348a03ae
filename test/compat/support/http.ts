import { connect } from 'node:net';

/** Sends raw bytes on a connection of its own, and resolves with all that comes back. */
export async function exchange(socketPath: string, request: string): Promise<string> {
  const socket = connect(socketPath);
  socket.end(request);
  let answer = '';
  for await (const bytes of socket) answer += bytes;
  return answer;
}
