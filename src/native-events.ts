/** What of the native core (native.ts) signals. */

/**
 * An eventfd: a queue's kick, or an interrupt on its way to KVM. No method blocks; after `close`,
 * which is idempotent, whoever was given it keeps it until it ends.
 */
export interface EventFd {
  /** Borrowed, until `close`; -1 from then on. */
  readonly fd: number;
  signal(): void;
  /** Whether it was signalled since the last `take`. */
  take(): boolean;
  /** The same, and it stays signalled. */
  pending(): boolean;
  close(): void;
}
