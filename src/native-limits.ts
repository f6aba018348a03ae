/** What of the native core (native.ts) is about limits. */

/** `size` units each `refillTimeMs`; no limit if either is 0. */
export interface TokenBucket {
  size: number;
  refillTimeMs: number;
  /** Units that are spent before all others, and never again. */
  oneTimeBurst: number;
}

export interface RateLimiterOptions {
  /** Of bytes. */
  bandwidth?: TokenBucket | undefined;
  ops?: TokenBucket | undefined;
}

declare const core: unique symbol;

/** Limits bytes and operations of the engines that are given it, all together. */
export interface RateLimiter {
  readonly [core]: never; // engines look inside; there is nothing to call
}
