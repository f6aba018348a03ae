#pragma once
#include <algorithm>
#include <chrono>
#include <cstdint>

namespace vmm {

/// Whether to look for the next request for a while before sleeping. Where driver and device take
/// turns, one request at a time, waking the thread up costs more than the request; where they share
/// a CPU, looking only keeps the driver from going on. So it is tried, and tried less and less
/// often while it does not pay.
class BusyPoll {
 public:
  /// `cpus` that the process may use.
  explicit BusyPoll(int cpus) : possible_(cpus > 1) {}

  bool on() const { return possible_ && skips_left_ == 0; }
  /// Calls `look` until it says true or the time is up. Only while on.
  template <class Look>
  bool Try(Look look) {
    const auto end = Clock::now() + kTime;
    do {
      if (look()) return misses_ = 0, true;
      __builtin_ia32_pause();
    } while (Clock::now() < end);
    misses_ = std::min(misses_ + 1, kMissesMax);
    skips_left_ = (1U << misses_) - 1;
    return false;
  }
  /// Instead of trying, while it is off.
  void Skip() {
    if (skips_left_ > 0) --skips_left_;
  }

 private:
  using Clock = std::chrono::steady_clock;
  /// An interrupt to a halted vCPU, and the way back; longer would cost more than it saves.
  static constexpr std::chrono::microseconds kTime{32};
  static constexpr uint32_t kMissesMax = 10;  // then once in a thousand

  const bool possible_;
  uint32_t misses_ = 0;  // in a row
  uint32_t skips_left_ = 0;
};

}  // namespace vmm
