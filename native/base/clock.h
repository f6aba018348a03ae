#pragma once
#include <time.h>

#include <chrono>
#include <cstdint>

namespace vmm {

/// The steady clock, CLOCK_MONOTONIC.
inline int64_t SteadyNowNs() {
  const auto now = std::chrono::steady_clock::now().time_since_epoch();
  return std::chrono::duration_cast<std::chrono::nanoseconds>(now).count();
}

/// CLOCK_REALTIME: since 1970, UTC.
inline int64_t WallNowNs() {
  const auto now = std::chrono::system_clock::now().time_since_epoch();
  return std::chrono::duration_cast<std::chrono::nanoseconds>(now).count();
}

inline timespec ToTimespec(int64_t ns) {
  constexpr int64_t kNsPerSecond = 1'000'000'000;
  return {ns / kNsPerSecond, ns % kNsPerSecond};
}

}  // namespace vmm
