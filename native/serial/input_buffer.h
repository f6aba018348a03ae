#pragma once
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <mutex>
#include <utility>
#include <vector>

namespace vmm {

/// Input on its way to a taker that comes for it in its own time. What does not fit is refused, so
/// that whoever sends it waits.
class InputBuffer {
 public:
  static constexpr size_t kBytes = 4096;

  /// `arrived` is called on the thread of Put, when there are bytes and were none before.
  explicit InputBuffer(std::function<void()> arrived) : arrived_(std::move(arrived)) {}

  /// Any thread. Returns how many bytes fitted.
  size_t Put(const uint8_t* bytes, size_t count) {
    size_t taken;
    bool first;
    {
      const std::lock_guard lock(mutex_);
      taken = std::min(count, kBytes - bytes_.size());
      first = bytes_.empty() && taken > 0;
      refused_ = refused_ || taken < count;
      bytes_.insert(bytes_.end(), bytes, bytes + taken);
    }
    if (first) arrived_();
    return taken;
  }

  /// Any thread. Moves all that waits to `taken`. True if some has been refused since the last
  /// time: now there is room.
  [[nodiscard]] bool Take(std::vector<uint8_t>* taken) {
    const std::lock_guard lock(mutex_);
    taken->clear();
    taken->swap(bytes_);
    return std::exchange(refused_, false);
  }

 private:
  const std::function<void()> arrived_;
  std::mutex mutex_;
  std::vector<uint8_t> bytes_;
  bool refused_ = false;
};

}  // namespace vmm
