#pragma once
#include <cstdint>
#include <memory>
#include <utility>

#include "../base/clock.h"
#include "rate_limiter.h"

namespace vmm {

/// A limit as one direction of a queue pair keeps to it. A frame passes and is paid for after,
/// since how long the next one of a tap is nobody knows before; then nothing passes until that is
/// paid.
class NetTurn {
 public:
  /// Null: there is no limit, and nobody looks at the clock.
  explicit NetTurn(std::shared_ptr<RateLimiter> limiter) : limiter_(std::move(limiter)) {}

  bool has_come() const { return limiter_ == nullptr || at_ns_ <= SteadyNowNs(); }
  /// On the steady clock.
  int64_t at_ns() const { return at_ns_; }
  /// A frame has passed, of so many bytes without the header in front.
  void Pay(uint64_t bytes) {
    if (limiter_ != nullptr) at_ns_ = limiter_->Take(bytes, SteadyNowNs());
  }

 private:
  const std::shared_ptr<RateLimiter> limiter_;
  int64_t at_ns_ = 0;
};

}  // namespace vmm
