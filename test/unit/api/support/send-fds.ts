/** Runs send-fds.c. */
import { type ChildProcess, execFileSync, spawn } from 'node:child_process';
import { join } from 'node:path';

/** What one message carries: text, and how many descriptors. */
export type FdMessage = readonly [text: string, count: number];

export interface FdClient {
  process: ChildProcess;
  /** Ends the client's side. Resolves with all that came back. */
  answer(): Promise<string>;
}

/** Compiles it into `directory`. @returns a function that starts it with descriptors of `file`. */
export function buildFdClient(directory: string) {
  const client = join(directory, 'send-fds');
  const flags = ['-D_GNU_SOURCE', '-std=c11', '-Wall', '-Wextra', '-Werror'];
  execFileSync('gcc', [...flags, '-o', client, join(import.meta.dirname, 'send-fds.c')]);
  return (socket: string, file: string, messages: readonly FdMessage[]): FdClient => {
    const argv = [socket, file, ...messages.flat().map(String)];
    const process = spawn(client, argv, { stdio: ['pipe', 'pipe', 'inherit'] });
    let text = '';
    process.stdout.on('data', (bytes) => {
      text += bytes;
    });
    const ended = new Promise<string>((resolve) => process.on('close', () => resolve(text)));
    return {
      process,
      answer: () => {
        process.stdin.end();
        return ended;
      },
    };
  };
}
