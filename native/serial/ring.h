#pragma once
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <vector>

namespace vmm {

/// The newest bytes of a stream whose reader is slower than its producer; the oldest are lost.
class Ring {
 public:
  static constexpr size_t kBytes = size_t{64} * 1024;

  bool empty() const { return count_ == 0; }

  void Put(const uint8_t* bytes, size_t count) {
    const size_t kept = std::min(count, kBytes);
    bytes += count - kept;
    Drop(count_ + kept > kBytes ? count_ + kept - kBytes : 0);
    const size_t end = (start_ + count_) % kBytes;
    const size_t first = std::min(kept, kBytes - end);
    std::copy_n(bytes, first, &bytes_[end]);
    std::copy_n(bytes + first, kept - first, bytes_.data());
    count_ += kept;
  }

  /// Moves the oldest bytes, up to `most`, to `chunk`.
  void Take(size_t most, std::vector<uint8_t>* chunk) {
    const size_t take = std::min(count_, most);
    const size_t first = std::min(take, kBytes - start_);
    chunk->assign(&bytes_[start_], &bytes_[start_] + first);
    chunk->insert(chunk->end(), bytes_.data(), bytes_.data() + (take - first));
    Drop(take);
  }

 private:
  void Drop(size_t count) {
    start_ = (start_ + count) % kBytes;
    count_ -= count;
  }

  std::vector<uint8_t> bytes_ = std::vector<uint8_t>(kBytes);
  size_t start_ = 0;
  size_t count_ = 0;
};

}  // namespace vmm
