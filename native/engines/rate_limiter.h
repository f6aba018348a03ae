#pragma once
#include <cstdint>
#include <limits>
#include <mutex>

namespace vmm {

/// `size` units each `refill_time_ms`. No limit if either is 0.
struct TokenBucketOptions {
  uint64_t size = 0;
  uint64_t refill_time_ms = 0;
  uint64_t one_time_burst = 0;  // units that are spent before all others, and never again
};

/// One limit, kept as the time when all that was charged is paid for: a unit costs the time that
/// refilling it takes. So it refills by the nanosecond, and no tick has to run.
class TokenBucket {
 public:
  explicit TokenBucket(const TokenBucketOptions& options);

  /// Charges `units` and returns when they may pass: at once if that is not later than `now_ns`.
  int64_t Take(uint64_t units, int64_t now_ns);
  /// Takes a charge back. What came out of the one-time burst is not counted as such again.
  void GiveBack(uint64_t units);

 private:
  int64_t Cost(uint64_t units) const;

  double ns_per_unit_ = 0;
  int64_t credit_ns_ = 0;  // the most that idleness saves up
  uint64_t burst_left_ = 0;
  int64_t paid_at_ns_ = std::numeric_limits<int64_t>::min() / 4;
};

/// Limits bytes and operations, of one device or of several that share it. Any thread.
///
/// Who takes is charged at once and told when it may go on: it waits until then and does not ask
/// again. So turns are given in the order of asking, and nobody who waits is overtaken, however
/// many share the limiter. Only what was charged before has to be paid for by then: a request that
/// is larger than a whole bucket passes, and those after it wait the longer.
///
/// Idleness saves up what refills in 0.4 s, and no more than `size`: so a limit holds within 5 %
/// over any 10 s, the first 10 s and those after a rest included. A one-time burst comes on top.
class RateLimiter {
 public:
  RateLimiter(const TokenBucketOptions& bytes, const TokenBucketOptions& ops)
      : bytes_(bytes), ops_(ops) {}

  /// Charges one operation that moves `bytes`. Returns when it may be done, on the steady clock
  /// (`SteadyNowNs`, base/clock.h): at once if that is not later than `now_ns`.
  [[nodiscard]] int64_t Take(uint64_t bytes, int64_t now_ns);
  /// Takes that back, for an operation that is not done after all.
  void GiveBack(uint64_t bytes);

 private:
  std::mutex mutex_;  // guards all
  TokenBucket bytes_, ops_;
};

}  // namespace vmm
