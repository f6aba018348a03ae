/** What of the native core (native.ts) is about serial ports and consoles. */

/** The 16550 at a port, answered wholly on vCPU threads; output goes to a ring and its writer. */
export interface Uart16550 {
  /** Bytes for the guest to read. Returns how many fitted; if not all, `onRoom` follows. */
  input(bytes: Uint8Array): number;
  /** Resolves when all output so far is written, or `timeoutMs` have passed. */
  flush(timeoutMs: number): Promise<void>;
}

/**
 * What a serial port or a console is plugged into from outside: a pty, or a socket that takes one
 * client at a time, the newest. It keeps the newest 64 KiB of output while nobody is there, and
 * outlives the Vm.
 */
export interface SerialLine {
  /** Of the pty's slave, or of the socket. */
  readonly path: string;
  /** Idempotent. The file of a socket stays. */
  close(): void;
}

/** The host's side of a console that is served here: bytes out, and in from a line. */
export interface BytePort {
  /** Never waits: the newest 64 KiB are kept for who reads slowly, or comes later. */
  write(bytes: Uint8Array): void;
  /** All input that waits, at most 4 KiB; more waits on the far side. Empty without a line. */
  read(): Uint8Array;
  /** Resolves when all output so far is written, or `timeoutMs` have passed. */
  flush(timeoutMs: number): Promise<void>;
  /** Of the terminal at `fd`, in characters; 0 where there is none. */
  windowSize(): { cols: number; rows: number };
  /** Resolves when nothing is written any more. Idempotent; the line stays. */
  close(): Promise<void>;
}

export type BytePortOptions =
  | {
      line: SerialLine;
      /** There is input, and was none before. */
      onInput: () => void;
    }
  | {
      /** -1 for nowhere. Borrowed until `close` has resolved. */
      fd: number;
      /** Of the thread that writes. */
      name: string;
    };

/**
 * Either `line`, which takes both directions, or `fd` for output, and input by `Uart16550.input`.
 */
export type UartOptions = { base: number; gsi: number } & (
  | { line: SerialLine }
  | {
      /** -1 for nowhere. Borrowed: it must stay open until the Vm has stopped. */
      fd: number;
      /** The guest has read all input, and some had not fitted. */
      onRoom: () => void;
    }
);
