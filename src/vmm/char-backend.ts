/**
 * The host's side of a serial port or console: what is there from vm.create to vm.delete, so that a
 * pty has its name before the boot, and whoever is connected stays so while the guest reboots.
 */
import { closeSync, constants, openSync, unlinkSync } from 'node:fs';
import { osError, VmmError } from '../errors.ts';
import { native } from '../native.ts';
import type { SerialLine } from '../native-serial.ts';

const { O_CREAT, O_NOCTTY, O_NONBLOCK, O_TRUNC, O_WRONLY } = constants;

const STDOUT = 1;
const NOWHERE = -1;

/** As in the config. */
export interface CharSettings {
  mode: 'Off' | 'Null' | 'Tty' | 'File' | 'Pty' | 'Socket';
  file?: string | undefined;
  socket?: string | undefined;
}

export class CharBackend {
  readonly #field: string;
  readonly #settings: CharSettings;
  #file: number | undefined;
  #line: SerialLine | undefined;

  /**
   * @param field of the config; its thread is called so too.
   * @throws VmmError 'invalid-config' if the file or socket cannot be, 'host' if there is no pty.
   */
  constructor(field: string, settings: CharSettings) {
    this.#field = field;
    this.#settings = settings;
    this.open();
  }

  /** Whether the guest has the device. */
  get isThere(): boolean {
    return this.#settings.mode !== 'Off';
  }

  /** Whether it is the terminal that we were started in. */
  get isTerminal(): boolean {
    return this.#settings.mode === 'Tty';
  }

  /** While it is open: where output goes, and input comes from if it is a line. */
  get sink(): { line: SerialLine } | { fd: number } {
    if (this.#line) return { line: this.#line };
    return { fd: this.isTerminal ? STDOUT : (this.#file ?? NOWHERE) };
  }

  /** The slave of an open pty. */
  get ptyPath(): string | undefined {
    return this.#settings.mode === 'Pty' ? this.#line?.path : undefined;
  }

  /**
   * Before every boot: opens what the constructor opened and `endBoot` or `hangUp` has closed.
   * A file is truncated: its contents are those of the latest boot.
   */
  open(): void {
    const { mode, file = '', socket = '' } = this.#settings;
    try {
      if (mode === 'File') this.#file ??= openOutput(file);
      if (mode === 'Pty') this.#line ??= new native.SerialLine(this.#field);
      if (mode === 'Socket') this.#line ??= this.#listen(socket);
    } catch (cause) {
      if (mode === 'Pty') throw failure(cause, undefined);
      const remedy =
        mode === 'File'
          ? `${this.#field}.file is ${file}: name a file that can be written`
          : `${this.#field}.socket is ${socket}: name a path of at most 107 bytes where nothing lies yet`;
      throw failure(cause, remedy);
    }
  }

  /** After a boot has ended, and its Vm has stopped: until then its writer has the file. */
  endBoot(): void {
    if (this.#file !== undefined) closeSync(this.#file);
    this.#file = undefined;
  }

  /** After a shutdown: a client of the socket hears of it, and the path is free. */
  hangUp(): void {
    if (this.#settings.mode === 'Socket') this.close();
  }

  /** Idempotent. */
  close(): void {
    this.endBoot();
    this.#line?.close();
    if (this.#line && this.#settings.mode === 'Socket') {
      process.off('exit', this.#unlink);
      this.#unlink();
    }
    this.#line = undefined;
  }

  /** The socket file goes with the process, whatever ends it. */
  #listen(path: string): SerialLine {
    const line = new native.SerialLine(this.#field, path);
    process.on('exit', this.#unlink);
    return line;
  }

  #unlink = (): void => {
    try {
      unlinkSync(this.#settings.socket ?? '');
    } catch {
      // It is gone already.
    }
  };
}

/** Without O_NONBLOCK, open(2) of a FIFO would wait for a reader, and the whole VMM with it. */
const openOutput = (path: string): number =>
  openSync(path, O_WRONLY | O_CREAT | O_TRUNC | O_NOCTTY | O_NONBLOCK, 0o666);

function failure(cause: unknown, remedy: string | undefined): VmmError {
  return new VmmError(
    remedy === undefined ? 'host' : 'invalid-config',
    'Error creating console devices',
    new Error('Error creating console device', { cause: osError(cause, remedy) }),
  );
}
