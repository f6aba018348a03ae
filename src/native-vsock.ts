/** What of the native core (native.ts) is about sockets between guest and host. */

export interface VsockEngineOptions {
  /** Its thread is called so, of which the kernel shows 15 bytes. */
  id: string;
  /** The guest's, 3 to 2^32 - 2. */
  cid: number;
  /** Where clients come in, non-blocking. Borrowed for `start`; nobody else may take clients then. */
  listener: number;
  /** What the guest reaches as port 5 of the host listens at `${socketPath}_5`. */
  socketPath: string;
  /** How long a client may take to say which port it wants. */
  greetingTimeoutMs: number;
  /** The host keeps connections from being made; called for the first of a burst. */
  onWarning(message: string): void;
}
