/** Taps for tests, in network namespaces of their own: nothing of the machine's own is touched. */
import { execFile, execFileSync } from 'node:child_process';
import { mkdirSync, mkdtempSync, renameSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { promisify } from 'node:util';
import { native } from '../../src/native.ts';

const OUTPUT = resolve('build/tap-exec');

/** The path of `tap-exec.c`, compiled. */
export function tapExec(): string {
  const part = `${OUTPUT}.${process.pid}`; // another test may want the same
  mkdirSync(resolve('build'), { recursive: true });
  execFileSync('gcc', ['-O1', '-Wall', '-Werror', 'test/support/tap-exec.c', '-o', part]);
  renameSync(part, OUTPUT);
  return OUTPUT;
}

/** Files of a tap that is up, one a queue pair, in a namespace that lives as long as they do. */
export async function tapFiles(count: number): Promise<number[]> {
  const folder = mkdtempSync(join(tmpdir(), 'tap-'));
  const path = join(folder, 'socket');
  const closing: (() => void)[] = [];
  try {
    const files = new Promise<number[]>((onFiles) => {
      const [into, nothing] = [new Uint8Array(1), () => {}];
      const listener = new native.FdListener({
        path,
        onStall: nothing,
        onConnection: (fd) => {
          const socket = new native.FdSocket(fd, {
            into,
            onData: (_, fds) => onFiles(fds ?? []),
            ...{ onEnd: nothing, onDrain: nothing, onClose: nothing },
          });
          closing.push(() => socket.destroy());
        },
      });
      closing.push(() => listener.close());
    });
    await promisify(execFile)(tapExec(), [`${count}`, '--send', path]);
    return await files;
  } finally {
    for (const close of closing) close();
    rmSync(folder, { recursive: true });
  }
}
