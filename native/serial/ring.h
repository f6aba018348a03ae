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
    for (size_t i = 0; i < count; ++i) {
      bytes_[(start_ + count_) % kBytes] = bytes[i];
      if (count_ < kBytes)
        ++count_;
      else
        start_ = (start_ + 1) % kBytes;
    }
  }

  /// Moves the oldest bytes, up to `most`, to `chunk`.
  void Take(size_t most, std::vector<uint8_t>* chunk) {
    const size_t take = std::min(count_, most);
    chunk->clear();
    for (size_t i = 0; i < take; ++i) chunk->push_back(bytes_[(start_ + i) % kBytes]);
    start_ = (start_ + take) % kBytes;
    count_ -= take;
  }

 private:
  std::vector<uint8_t> bytes_ = std::vector<uint8_t>(kBytes);
  size_t start_ = 0;
  size_t count_ = 0;
};

}  // namespace vmm
