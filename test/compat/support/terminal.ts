/** A terminal for a process to be started on, and the person in front of it. */
import { type ChildProcess, execFileSync, spawn } from 'node:child_process';
import { closeSync, constants, openSync } from 'node:fs';
import { createInterface } from 'node:readline';

/**
 * Says the name of a slave, then is its master: what it reads is typed, what it writes is shown.
 */
const MASTER = `
import os, pty, sys, threading
master, slave = pty.openpty()
print(os.ttyname(slave), flush=True)
def type():
    while data := os.read(0, 4096): os.write(master, data)
    os._exit(0)
threading.Thread(target=type).start()
while True: os.write(1, os.read(master, 4096))
`;

export class TestTerminal implements Disposable {
  /** For the stdio of a child. */
  readonly fd: number;
  readonly path: string;
  readonly #master: ChildProcess;
  #shown = '';

  private constructor(master: ChildProcess, path: string) {
    this.#master = master;
    this.path = path;
    this.fd = openSync(path, constants.O_RDWR | constants.O_NOCTTY);
  }

  static async open(): Promise<TestTerminal> {
    const master = spawn('/usr/bin/python3', ['-c', MASTER], {
      stdio: ['pipe', 'pipe', 'inherit'],
    });
    const lines = createInterface({ input: master.stdout });
    const [path] = await new Promise<string[]>((resolve) =>
      lines.once('line', (line) => resolve([line])),
    );
    lines.close();
    const terminal = new TestTerminal(master, path ?? '');
    master.stdout.on('data', (bytes) => {
      terminal.#shown += bytes.toString('latin1');
    });
    master.stdout.resume();
    return terminal;
  }

  get shown(): string {
    return this.#shown;
  }

  type(text: string): void {
    this.#master.stdin?.write(text, 'latin1');
  }

  /** Whether keys go through as they are. */
  get isRaw(): boolean {
    return / -icanon /.test(this.settings);
  }

  get settings(): string {
    return execFileSync('stty', ['-a', '-F', this.path], { encoding: 'utf8' });
  }

  [Symbol.dispose](): void {
    closeSync(this.fd);
    this.#master.kill('SIGKILL');
  }
}
