#pragma once
#include <sys/uio.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>

#include "../base/assert.h"

namespace vmm {

/// Bytes that a slow reader has not taken yet, in order. It has memory only while there are some.
class VsockOutbox {
 public:
  explicit VsockOutbox(uint32_t capacity_bytes) : capacity_(capacity_bytes) {}

  bool empty() const { return count_ == 0; }

  /// The caller has seen to it that there is room.
  void Put(const void* from, uint32_t bytes) {
    VMM_ASSERT(bytes <= capacity_ - count_);
    if (bytes_ == nullptr) bytes_ = std::make_unique_for_overwrite<std::byte[]>(capacity_);
    const uint32_t end = (start_ + count_) % capacity_;
    const uint32_t first = std::min(bytes, capacity_ - end);
    std::memcpy(&bytes_[end], from, first);
    std::memcpy(&bytes_[0], static_cast<const std::byte*>(from) + first, bytes - first);
    count_ += bytes;
  }
  /// Where they lie: one piece or two. Returns how many.
  size_t Peek(iovec pieces[2]) const {
    const uint32_t first = std::min(count_, capacity_ - start_);
    pieces[0] = {bytes_.get() + start_, first};
    pieces[1] = {bytes_.get(), count_ - first};
    return count_ > first ? 2 : 1;
  }
  void Drop(uint32_t bytes) {
    start_ = (start_ + bytes) % capacity_;
    count_ -= bytes;
    if (count_ == 0) Clear();
  }
  void Clear() {
    bytes_.reset();
    start_ = count_ = 0;
  }

 private:
  const uint32_t capacity_;
  std::unique_ptr<std::byte[]> bytes_;
  uint32_t start_ = 0;
  uint32_t count_ = 0;
};

}  // namespace vmm
