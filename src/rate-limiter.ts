/** From what a config says of limits to what engines take. */
import { native } from './native.ts';
import type { RateLimiter, TokenBucket } from './native-limits.ts';
import type { RateLimiterConfig } from './schema.ts';

type BucketConfig = NonNullable<RateLimiterConfig['ops']>;

/** Undefined if nothing is limited: an engine without one does not even look at the clock. */
export function makeRateLimiter(config: RateLimiterConfig = {}): RateLimiter | undefined {
  const bandwidth = bucket(config.bandwidth);
  const ops = bucket(config.ops);
  return bandwidth || ops ? new native.RateLimiter({ bandwidth, ops }) : undefined;
}

function bucket(config: BucketConfig | undefined): TokenBucket | undefined {
  if (!config?.size || !config.refill_time) return undefined;
  return {
    size: config.size,
    refillTimeMs: config.refill_time,
    oneTimeBurst: config.one_time_burst ?? 0,
  };
}
