#pragma once
#include <errno.h>

#include <algorithm>
#include <cstdint>

#include "image.h"

namespace vmm {

/// A raw file that another image is backed by, which nobody writes to. A disk that is raw itself
/// does without an Image.
class RawImage final : public Image {
 public:
  explicit RawImage(uint64_t file_bytes) : file_bytes_(file_bytes) {}

  /// What the last sector lacks reads as zeroes.
  uint64_t size_bytes() const override { return (file_bytes_ + 511) / 512 * 512; }
  int Read(DiskRange range, Extent* out) override {
    const uint64_t left = range.offset < file_bytes_ ? file_bytes_ - range.offset : 0;
    if (left == 0)
      *out = {Extent::Kind::kZero, 0, 0, range.length, nullptr};
    else
      *out = {Extent::Kind::kFile, 0, range.offset, std::min(left, range.length), nullptr};
    return 0;
  }
  int BeginWrite(DiskRange, WritePlan*) override { return -EROFS; }
  int EndWrite(uint64_t, bool) override { return -EROFS; }
  int Discard(DiskRange) override { return -EROFS; }
  int Zero(DiskRange, bool, uint64_t*, uint64_t*) override { return -EROFS; }
  int Flush() override { return 0; }

 private:
  const uint64_t file_bytes_;
};

}  // namespace vmm
