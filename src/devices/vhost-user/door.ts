/** A socket of ours at which a backend arrives, where the backend is the one that connects. */
import { rmSync } from 'node:fs';
import { native } from '../../native.ts';
import type { FdListener } from '../../native-sockets.ts';

/** One backend is let in at a time: whoever comes meanwhile waits in the kernel. */
export class Door {
  readonly #path: string;
  readonly #listener: FdListener;
  #admit: ((fd: number) => void) | undefined;
  #refuse: (reason: Error) => void = () => {};

  /** @throws SystemError EADDRINUSE if somebody listens there, or of what keeps us from it. */
  constructor(path: string) {
    this.#path = path;
    this.#listener = new native.FdListener({
      path,
      replaceStale: true,
      onConnection: (fd) => {
        this.#listener.pause();
        this.#admit?.(fd);
      },
      onStall: () => this.#refuse(new Error('there are no descriptors left for it')),
    });
    this.#listener.pause();
  }

  /** The connection of the next that comes. One call at a time. Rejects after `close`. */
  next(): Promise<number> {
    return new Promise((resolve, reject) => {
      this.#admit = resolve;
      this.#refuse = reject;
      this.#listener.resume();
    });
  }

  /** Nobody comes any more, and the file goes. Idempotent. */
  close(): void {
    this.#listener.close();
    rmSync(this.#path, { force: true });
    this.#refuse(new Error('nobody has connected'));
  }
}
